"""A finished model drives i-PI with no broker: over a socket, and inside i-PI's own process."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anharm.server.engine_input import DEFAULT_SOCKETS_PREFIX

FOLDER = Path(__file__).parents[2] / "inputs" / "ffdirect"
PROGRAMS = Path(sys.executable).parent
PATIENCE = 300.0  # seconds; a machine may be busy with other things

Edit = tuple[str, str]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Silicon from the shipped labels."""
    path = tmp_path_factory.mktemp("model") / "model.h5"
    command = [sys.executable, "-m", "anharm", "fit", FOLDER / "fit.toml"]
    subprocess.run(
        [*command, "--labels", FOLDER / "labels.xyz", "--output", path],
        check=True,
        timeout=PATIENCE,
    )
    return path


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Path:
    """The example's folder, with a model."""
    folder = tmp_path / "job"
    shutil.copytree(FOLDER, folder)
    shutil.copy(model, folder)
    return folder


def edited(folder: Path, name: str, *edits: Edit) -> Path:
    """The example's i-PI input with a few steps and other changes, under another name."""
    text = (folder / "input.xml").read_text()
    for old, new in (
        ("<total_steps> 1000", "<total_steps> 10"),
        ("stride='10'", "stride='1'"),
        ("prefix='silicon'", f"prefix='{name}'"),
        *edits,
    ):
        assert old in text, old
        text = text.replace(old, new)
    (folder / f"{name}.xml").write_text(text)
    return folder / f"{name}.xml"


def over_a_socket(folder: Path, name: str, address: str, *edits: Edit) -> Path:
    """The same input with an <ffsocket> in place of the <ffdirect>."""
    text = (folder / "input.xml").read_text()
    direct = re.search(r"<ffdirect.*?</ffdirect>", text, re.DOTALL)
    assert direct is not None
    batch = "".join(re.findall("<batch_size>.*?</batch_size>", "".join(new for _, new in edits)))
    socket = (
        f"<ffsocket name='anharm' mode='unix' pbc='False'><address> {address} </address>"
        f"<latency> 1e-5 </latency>{batch}</ffsocket>"
    )
    kept = [(old, new) for old, new in edits if old not in direct[0]]
    return edited(folder, name, (direct[0], socket), *kept)


def run_engine(start: Start, folder: Path, path: Path) -> tuple[int, str]:
    """i-PI's exit code and all it said."""
    output = folder / f"{path.stem}.log"
    with output.open("w") as log:
        process = start(
            PROGRAMS / "i-pi", path.name, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
        code = process.wait(PATIENCE)
    return code, output.read_text()


def serve(start: Start, folder: Path, *options: object) -> tuple[int, str]:
    """The exit code of `anharm serve` and all it said."""
    with (folder / "serve.log").open("w") as log:
        process = start(
            sys.executable, "-m", "anharm", "serve", "model.h5", *options,
            cwd=folder, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        code = process.wait(PATIENCE)
    return code, (folder / "serve.log").read_text()


def numbers(path: Path) -> np.ndarray:
    return np.loadtxt(path)


FORCES = ("positions{angstrom} </trajectory>", "positions{angstrom} </trajectory>"
          "<trajectory filename='for' stride='1' format='xyz'> forces </trajectory>")  # fmt: skip
ARRAY = ("<checkpoint", "<trajectory filename='force_std' stride='1' extra_type='force_std'>"
         " extras </trajectory><checkpoint")  # fmt: skip
BEADS = ("nbeads='1'", "nbeads='4'")
RING_POLYMER = ("mode='langevin'", "mode='pile_l'")


@pytest.mark.parametrize(
    ("beads", "edits"),
    [
        (1, [("extras: force_std_max", "extras: force_std_max force_std committee_pot"), ARRAY]),
        (4, [BEADS, RING_POLYMER, ("</parameters>", "</parameters><batch_size> 4 </batch_size>")]),
    ],
)
def test_inside_i_pi_and_over_a_socket_the_numbers_are_the_same_to_the_last_bit(
    start, job, address, beads, edits
) -> None:
    name = str(address.path).removeprefix(DEFAULT_SOCKETS_PREFIX)
    code, said = run_engine(start, job, edited(job, "direct", FORCES, *edits))
    assert code == 0, said
    path = over_a_socket(job, "socket", name, FORCES, *edits)
    with (job / "socket.log").open("w") as log:
        engine = start(PROGRAMS / "i-pi", path.name, cwd=job, stdout=log, stderr=log)
        extras = edits[0][1].removeprefix("extras: ") if beads == 1 else "force_std_max"
        code, said = serve(start, job, "--input", path.name, "--extras", extras)
        assert code == 0, said
        assert engine.wait(PATIENCE) == 0
    found = sorted(one.name for one in job.glob("direct.*_*"))
    assert len(found) == (4 if beads == 1 else 12)  # positions, forces and errors of each bead
    for one in ["direct.out", *found]:
        direct, socket = ((job / name).read_text() for name in (one, "socket" + one[6:]))
        assert direct == socket
    largest = numbers(job / "direct.force_std_max_0")
    assert len(set(largest)) == 11
    if beads == 1:
        every = numbers(job / "direct.force_std_0").reshape(11, 64 * 3)
        np.testing.assert_allclose(every.max(axis=1), largest, rtol=1e-8)


def test_errors_are_not_computed_unless_they_are_sent(start, job) -> None:
    with_errors = run_engine(start, job, edited(job, "with"))
    without = (
        ("extras: force_std_max", "extras: none"),
        ("<trajectory filename='force_std_max'", "<!-- <trajectory"),
        ("extras </trajectory>", "extras </trajectory> -->"),
    )
    without_errors = run_engine(start, job, edited(job, "without", *without))
    assert with_errors[0] == without_errors[0] == 0, without_errors[1]
    np.testing.assert_array_equal(numbers(job / "with.out"), numbers(job / "without.out"))
    assert not (job / "without.force_std_max_0").exists()


@pytest.mark.parametrize("threaded", [False, True])
def test_an_atom_that_leaves_its_site_ends_i_pi_with_one_sentence_and_a_restart(
    start, job, threaded
) -> None:
    hot = [("kelvin'> 300 </velocities>", "kelvin'> 300000 </velocities>")]
    if threaded:
        hot.append(("<ffdirect name='anharm'", "<ffdirect name='anharm' threaded='True'"))
    code, said = run_engine(start, job, edited(job, "hot", *hot))
    assert code == 1, said
    assert re.search(r"^anharm: atom \d+ \(Si\) is .* Angstrom from its site", said, re.MULTILINE)
    assert "Traceback" not in said
    assert "<ffdirect" in (job / "RESTART").read_text()


def test_a_cell_that_is_strained_too_far_at_the_very_first_step_is_refused(start, job) -> None:
    """i-PI writes its outputs then, and holds back its own endings until that is done."""
    init = job / "init.xyz"
    init.write_text(init.read_text().replace("10.806000", "11.806000", 1))
    threaded = ("<ffdirect name='anharm'", "<ffdirect name='anharm' threaded='True'")
    code, said = run_engine(start, job, edited(job, "strained", threaded))
    assert code == 1, said
    assert "anharm: the cell" in said and "nor one strained by at most 0.05" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("model: absent.h5", "cannot read the model file absent.h5"),
        ("extras: none", "<parameters> names no model; write for example"),
        ("model: model.h5, error: none", "<parameters> has error; known: model, extras"),
        ("model: model.h5, extras: force_error", "there are no extras named 'force_error'"),
        ("model: model.h5, threads: some", "<parameters> has threads: some, expected a whole"),
    ],
)
def test_parameters_that_cannot_be_used_are_named_before_anything_runs(
    monkeypatch, job, parameters, message
) -> None:
    from ipi.pes import load_pes
    from ipi.utils.io.inputs.io_xml import read_dict

    monkeypatch.chdir(job)
    pes = load_pes("custom", str(job / "ipi_pes.py"))
    with pytest.raises(SystemExit, match=re.escape(message)):
        pes(**read_dict(f"{{ {parameters} }}"), verbosity=False)


def test_the_examples_shim_is_the_installed_one() -> None:
    command = [sys.executable, "-m", "anharm", "pes-path"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert Path(printed).read_text() == (FOLDER / "ipi_pes.py").read_text()


def test_a_server_without_i_pi_says_so(start, job, address) -> None:
    name = str(address.path).removeprefix(DEFAULT_SOCKETS_PREFIX)
    code, said = serve(start, job, "--address", f"unix:{name}", "--connection-limit", 0.2)
    assert code == 1
    assert "Traceback" not in said and name in said
    code, said = serve(start, job)
    assert code == 2
    assert "either --input" in said
