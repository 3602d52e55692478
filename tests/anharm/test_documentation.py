"""The manual describes what the code accepts."""

import re
from pathlib import Path

import pytest

from anharm.command_line import cli
from anharm.configuration_client import ClientSection
from anharm.configuration_cluster import ClusterSection
from anharm.configuration_sections import (
    CrystalSection,
    EngineSection,
    ExpansionSection,
    ReferenceSection,
    RunSection,
    TrainingSection,
)
from anharm.server.reference_output import NOT_CONVERGED

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "docs" / "run-toml.md"
PAGES = [
    page
    for folder in (".", "docs", "inputs", "results")
    for page in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
]
FILES = {"run.toml", "client.key", "client.key_secret"}
SECTIONS = {
    "client": ClientSection,
    "crystal": CrystalSection,
    "engine": EngineSection,
    "expansion": ExpansionSection,
    "reference": ReferenceSection,
    "run": RunSection,
    "training": TrainingSection,
}


@pytest.mark.parametrize("section", [*SECTIONS.values(), ClusterSection])
def test_the_manual_describes_every_key_of_run_toml(section):
    text = MANUAL.read_text()
    missing = [key for key in section.model_fields if f"`{key}`" not in text and key not in text]
    assert not missing


def test_the_page_on_reference_codes_names_recipes_that_are_there():
    page = (MANUAL.parent / "reference-codes.md").read_text()
    recipes = ROOT / "inputs" / "si"
    table = [line.split("|")[3] for line in page.splitlines() if line.count("|") == 7][1:]
    named = [name for cell in table for name in re.findall(r"`([\w/.-]+)`", cell)]
    assert {"cp2k8/", "lammps/", "abinit8/", "run-qe-abinit.toml"} < set(named)
    assert all((recipes / name).exists() for name in named)
    for pattern in NOT_CONVERGED.values():
        assert f"`{pattern}`" in page


def test_the_readme_shows_the_silicon_input_as_it_is():
    readme = (ROOT / "README.md").read_text()
    run = (ROOT / "inputs" / "si" / "run.toml").read_text()
    for line in run.splitlines():
        content = line.split("#")[0].strip()
        if content:
            assert content in readme


def test_the_guide_shows_its_input_as_it_is():
    guide = (MANUAL.parent / "guide.md").read_text()
    run = (ROOT / "inputs" / "guide" / "run.toml").read_text()
    for line in run.splitlines():
        assert line.split("#")[0].strip() in guide


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request):
    return request.param


def anchors(page):
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_to_a_file_and_a_heading_in_it(page):
    for link, _, anchor in re.findall(r"\]\(([^)#:]*)(#([^)]*))?\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def test_commands_and_their_options_are_there(page):
    text = page.read_text().replace("\\\n", " ")
    for name, words in re.findall(r"(?:`|^ {4}|bin/)anharm ([a-z-]+)([^`\n]*)", text, re.MULTILINE):
        assert name in cli.commands, name
        known = {word for parameter in cli.commands[name].params for word in parameter.opts}
        assert set(re.findall(r"(?<![\w-])--[a-z-]+", words)) <= {*known, "--help"}


def test_keys_that_are_named_with_their_section_are_there(page):
    for section, key in re.findall(r"`([a-z]+)\.([a-z_]+)(?: = [^`]*)?`", page.read_text()):
        if section in SECTIONS and f"{section}.{key}" not in FILES:
            assert key in SECTIONS[section].model_fields, f"{section}.{key}"
