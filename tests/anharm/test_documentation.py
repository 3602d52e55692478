"""The manual describes what the code accepts."""

import re
from pathlib import Path

import pytest

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

MANUAL = Path(__file__).parents[2] / "docs" / "run-toml.md"


@pytest.mark.parametrize(
    "section",
    [
        ClientSection,
        ClusterSection,
        CrystalSection,
        EngineSection,
        ExpansionSection,
        ReferenceSection,
        RunSection,
        TrainingSection,
    ],
)
def test_the_manual_describes_every_key_of_run_toml(section):
    text = MANUAL.read_text()
    missing = [key for key in section.model_fields if f"`{key}`" not in text and key not in text]
    assert not missing


def test_the_page_on_reference_codes_names_recipes_that_are_there():
    page = (MANUAL.parent / "reference-codes.md").read_text()
    recipes = MANUAL.parents[1] / "inputs" / "si"
    table = [line.split("|")[3] for line in page.splitlines() if line.count("|") == 7][1:]
    named = [name for cell in table for name in re.findall(r"`([\w/.-]+)`", cell)]
    assert {"cp2k8/", "lammps/", "abinit8/", "run-qe-abinit.toml"} < set(named)
    assert all((recipes / name).exists() for name in named)
    for pattern in NOT_CONVERGED.values():
        assert f"`{pattern}`" in page


def test_the_readme_shows_the_silicon_input_as_it_is():
    readme = (MANUAL.parents[1] / "README.md").read_text()
    run = (MANUAL.parents[1] / "inputs" / "si" / "run.toml").read_text()
    for line in run.splitlines():
        content = line.split("#")[0].strip()
        if content:
            assert content in readme


def test_the_guide_shows_its_input_as_it_is():
    guide = (MANUAL.parent / "guide.md").read_text()
    run = (MANUAL.parents[1] / "inputs" / "guide" / "run.toml").read_text()
    for line in run.splitlines():
        assert line.split("#")[0].strip() in guide


@pytest.mark.parametrize(
    "page",
    [
        *MANUAL.parents[1].glob("*.md"),
        *MANUAL.parent.glob("*.md"),
        *(MANUAL.parents[1] / "inputs").rglob("*.md"),
        *(MANUAL.parents[1] / "results").rglob("*.md"),
    ],
    ids=lambda page: str(page.relative_to(MANUAL.parents[1])),
)
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
