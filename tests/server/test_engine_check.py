"""What i-PI would not understand is found before any label is computed."""

from pathlib import Path

import pytest

from anharm.errors import ConfigurationError
from anharm.server.engine_check import check_i_pi_reads

INPUTS = Path(__file__).parents[2] / "inputs"


@pytest.mark.parametrize("path", sorted(INPUTS.glob("*/*.xml")), ids=lambda path: path.stem)
def test_i_pi_reads_the_inputs_of_this_repository(path: Path) -> None:
    check_i_pi_reads(path)


MISTAKES = {
    "wrong element": ("timestep", "timestepp", "Tag name 'timestepp' is not a recognized property"),
    "wrong attribute": ("stride='100'", "strid='100'", "checkpoint: Attribute name 'strid' is not"),
    "wrong option": (
        "mode='nvt'",
        "mode='nvtt'",
        "system motion dynamics mode: nvtt is not a valid",
    ),
    "wrong option of an output": (
        "format='xyz'",
        "format='xyzz'",
        "trajectory format: xyzz is not",
    ),
    "wrong unit": (
        "'femtosecond'> 1.0",
        "'fentosecond'> 1.0",
        "system motion dynamics timestep: fentosecond is an undefined unit",
    ),
    "wrong number": ("stride='10' format", "stride='ten' format", "trajectory: invalid literal"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_i_pi_does_not_understand_is_said_in_its_words(tmp_path: Path, name: str) -> None:
    old, new, words = MISTAKES[name]
    text = (INPUTS / "si" / "input.xml").read_text()
    assert old in text
    path = tmp_path / "input.xml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigurationError, match=r"input\.xml: i-PI cannot read") as caught:
        check_i_pi_reads(path)
    assert words in str(caught.value)


def test_files_that_an_input_names_are_read_from_its_own_folder(tmp_path: Path) -> None:
    """As they are where i-PI runs; wherever this process is."""
    text = (INPUTS / "si" / "input.xml").read_text()
    old = "<thermostat mode='langevin'><tau units='femtosecond'> 100 </tau></thermostat>"
    new = "<thermostat mode='gle'><A shape='(1,1)' mode='file'> drift.dat </A></thermostat>"
    assert old in text
    path = tmp_path / "input.xml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigurationError, match=r"drift\.dat not found"):
        check_i_pi_reads(path)
    (tmp_path / "drift.dat").write_text("0.001\n")
    here = Path.cwd()
    check_i_pi_reads(path)
    assert Path.cwd() == here
