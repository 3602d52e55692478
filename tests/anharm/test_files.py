"""Outputs that cannot be written are refused before anything is read or computed."""

import pytest

COMMANDS = {
    "fit": ("fit", "run.toml", "--labels", "labels.xyz", "--output"),
    "evaluate": ("evaluate", "model.h5", "labels.xyz", "--output"),
    "phonons": ("phonons", "model.h5", "--output"),
    "anharmonicity": ("anharmonicity", "model.h5", "labels.xyz", "--output"),
    "conductivity": ("conductivity", "model.h5", "--output"),
    "effective-phonons": ("effective-phonons", "model.h5", "labels.xyz", "--output"),
    "labels": ("labels", "run", "--xyz"),
    "convergence": ("convergence", "run", "--output"),
    "report": ("report", "run", "--output"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("output", "problem"),
    [("made.png", "is a folder: name a file"), ("absent/x.png", "absent does not exist: make it")],
)
def test_an_output_that_cannot_be_is_refused_at_once(
    command, tmp_path, monkeypatch, name, output, problem
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.png").mkdir()
    ended = command(*COMMANDS[name], output)
    assert ended.code == 2
    assert f"{COMMANDS[name][-1]} {output}" in ended.err and problem in ended.err


def test_force_constants_need_a_folder(command, tmp_path):
    taken = tmp_path / "taken"
    taken.touch()
    ended = command("export", "model.h5", "--format", "phonopy", "--output", taken)
    assert ended.code == 2
    assert f"--output {taken} is a file" in ended.err
