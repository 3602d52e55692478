"""The manual describes what the code accepts."""

from pathlib import Path

import pytest

from anharm.configuration_sections import (
    CrystalSection,
    EngineSection,
    ExpansionSection,
    ReferenceSection,
    RunSection,
    TrainingSection,
)

MANUAL = Path(__file__).parents[2] / "docs" / "run-toml.md"


@pytest.mark.parametrize(
    "section",
    [
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


def test_the_readme_shows_the_silicon_input_as_it_is():
    readme = (MANUAL.parents[1] / "README.md").read_text()
    run = (MANUAL.parents[1] / "inputs" / "silicon" / "run.toml").read_text()
    for line in run.splitlines():
        content = line.split("#")[0].strip()
        if content:
            assert content in readme
