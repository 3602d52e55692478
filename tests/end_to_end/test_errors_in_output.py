"""i-PI writes the errors beside its trajectory, and its own tools make error bars of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase.units import kB

from anharm.model import ForceField, Supercell, load_model
from anharm.server.engine_input import DEFAULT_SOCKETS_PREFIX

FOLDER = Path(__file__).parents[2] / "inputs" / "errors-in-output"
LABELS = Path(__file__).parents[1] / "data" / "si64_qe_lda_gamma_20Ry.xyz"
PROGRAMS = Path(sys.executable).parent
PATIENCE = 300.0  # seconds; a machine may be busy with other things
MEMBERS, TEMPERATURE = 16, 300.0


def edit(path: Path, *edits: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)


def run(folder: Path, *command: object) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def anharm(folder: Path, *words: object) -> str:
    return run(folder, sys.executable, "-m", "anharm", *words)


def test_a_run_that_trains_writes_errors_and_committee_per_step(tmp_path: Path, address) -> None:
    shutil.copytree(FOLDER, tmp_path / "job")
    name = str(address.path).removeprefix(DEFAULT_SOCKETS_PREFIX)
    edit(
        tmp_path / "job" / "input.xml",
        ("anharm-errors", name),
        ("<total_steps> 1000", "<total_steps> 60"),
    )
    anharm(tmp_path / "job", "run", "run.toml")
    output = tmp_path / "job" / "runs" / "errors-in-output"

    def written(quantity: str) -> np.ndarray:
        return np.loadtxt(output / f"silicon.{quantity}_0")

    largest, mean, version = (
        written(name) for name in ("force_std_max", "force_std_mean", "model_version")
    )
    assert len(largest) == 7 and (largest[1:] > mean[1:]).all() and (mean[1:] > 0).all()
    assert (np.diff(version) >= 0).all()
    for one in version.astype(int):
        assert (output / "models" / f"model-{one:04d}.h5").exists()
    energies = written("committee_pot")
    assert energies.shape == (7, 8)
    potential = np.loadtxt(output / "silicon.out")[:, 5]
    np.testing.assert_allclose(energies.mean(axis=1) * 27.21138, potential, atol=1e-3)
    deviations = energies.std(axis=1, ddof=1)
    np.testing.assert_allclose(written("committee_uncertainty"), deviations, atol=1e-6)


def harmonic_displacements(model_file: Path) -> np.ndarray:
    """Exact classical mean squared displacement under every member of the committee."""
    model = load_model(model_file)
    matrix = np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]])
    force_field = ForceField(model, Supercell(model.expansion.crystal, matrix))
    n_atoms, step = force_field.supercell.n_atoms, 0.01
    u = step * np.eye(3 * n_atoms).reshape(-1, n_atoms, 3)
    mean = force_field.predict(u, errors=False)
    assert mean.virials is not None
    committee = force_field.committee(MEMBERS)
    forces = committee.about(mean.energies, mean.forces, mean.virials, u, None).forces
    found = []
    for member in range(MEMBERS):
        hessian = -forces[:, member].reshape(len(u), -1) / step
        frequencies = np.linalg.eigvalsh((hessian + hessian.T) / 2)[3:]  # three translations
        found.append(kB * TEMPERATURE * np.sum(1 / frequencies) / n_atoms)
    return np.array(found)


def test_the_committee_tool_of_i_pi_gives_the_posteriors_error_of_an_observable(
    tmp_path: Path, start, address
) -> None:
    """For a harmonic model, the mean squared displacement of every member is known exactly."""
    folder = tmp_path / "production"
    shutil.copytree(FOLDER / "production", folder)
    name = str(address.path).removeprefix(DEFAULT_SOCKETS_PREFIX)
    edit(folder / "fit.toml", (", 3 = 4.0, 4 = 3.5", ""))
    edit(
        folder / "input.xml",
        ("anharm-production", name),
        ("<total_steps> 20000", "<total_steps> 5000"),
    )
    # More labels than in the example: the tool's estimate is linear in the members' differences.
    shutil.copy(LABELS, folder / "labels.xyz")
    anharm(folder, "fit", "fit.toml", "--labels", "labels.xyz", "--output", "model.h5")
    with (folder / "i-pi.log").open("w") as log:
        engine = start(PROGRAMS / "i-pi", "input.xml", cwd=folder, stdout=log, stderr=log)
        extras = ("--extras", "force_std_max committee_pot", "--committee", MEMBERS)
        anharm(folder, "serve", "model.h5", "--input", "input.xml", *extras)
        assert engine.wait(PATIENCE) == 0
    trajectory = ("mean_square_displacement.py", "silicon.pos_0.xyz", "init.xyz")
    (folder / "msd.dat").write_text(run(folder, sys.executable, *trajectory))
    files = ("silicon.committee_pot_0", "msd.dat", "--input", "input.xml")
    said = run(folder, PROGRAMS / "i-pi-committee-reweight", *files)
    mean, error, *members = map(float, said.splitlines()[-1].split())

    exact = harmonic_displacements(folder / "model.h5")
    assert len(members) == MEMBERS
    assert abs(mean / exact.mean() - 1) < 0.1
    assert abs(error / exact.std() - 1) < 0.4
    assert np.corrcoef(members, exact)[0, 1] > 0.9
