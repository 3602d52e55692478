"""Where a reference client prints to, and what it says there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anharm.configuration import load_configuration
from anharm.server.broker_process import output_files
from anharm.server.reference_output import (
    LONGEST_OUTPUT,
    NOT_CONVERGED,
    ReferenceOutput,
    program_name,
    standard_output,
)

ALL = tuple(NOT_CONVERGED.values())
WARNING = " *** WARNING in qs_scf.F:601 :: SCF run NOT converged ***\n"


@pytest.fixture
def waiting(tmp_path):
    """Start commands that wait for ever; they are gone when the test ends."""
    started = []

    def start(*command: str, **options) -> subprocess.Popen:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def test_only_lines_since_the_mark_count(tmp_path):
    file = tmp_path / "cp2k.out"
    file.write_text(WARNING)
    output = ReferenceOutput(ALL, [file])
    output.mark()
    with file.open("a") as stream:
        stream.write("all is well\n")
    assert output.complaints() == []
    with file.open("a") as stream:
        stream.write(WARNING)
    (complaint,) = output.complaints()
    assert WARNING.strip() in complaint and str(file) in complaint
    output.mark()
    assert output.complaints() == []


def test_a_file_that_comes_later_or_is_begun_anew_is_read_from_its_start(tmp_path):
    file = tmp_path / "later.out"
    output = ReferenceOutput(ALL, [file])
    output.mark()
    assert output.complaints() == []
    file.write_text("much text\n" * 100 + WARNING)
    assert len(output.complaints()) == 1
    output.mark()
    file.write_text(WARNING)
    assert len(output.complaints()) == 1


def test_of_an_endless_output_the_end_is_read(tmp_path):
    file = tmp_path / "long.out"
    output = ReferenceOutput(ALL, [file])
    output.mark()
    with file.open("w") as stream:
        stream.write(WARNING)
        stream.truncate(LONGEST_OUTPUT + 1000)  # a hole: no disk is needed
    assert output.complaints() == []
    with file.open("a") as stream:
        stream.write("\n" + WARNING)
    assert len(output.complaints()) == 1


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("pw.x", "     convergence NOT achieved after   2 iterations: stopping"),
        ("ABINIT", "  nstep=    3 was not enough SCF cycles to converge;"),
        ("CP2K", WARNING),
    ],
)
def test_the_words_of_each_code_are_known(tmp_path, code, line):
    file = tmp_path / "out"
    output = ReferenceOutput([NOT_CONVERGED[code]], [file])
    output.mark()
    file.write_text(f"a\n{line}\nb\n")
    assert len(output.complaints()) == 1


def test_progress_of_a_healthy_code_is_no_complaint(tmp_path):
    """pw.x calls single bands not converged, ABINIT the relaxation that i-PI does for it."""
    file = tmp_path / "out"
    output = ReferenceOutput(ALL, [file])
    output.mark()
    file.write_text(
        "     convergence has been achieved in   7 iterations\n"
        "     c_bands:  1 eigenvalues not converged\n"
        " fconv : at Broyd/MD step   1, gradients have not converged yet.\n"
        "  *** SCF run converged in    10 steps ***\n"
    )
    assert output.complaints() == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            " %%%\n     Error in routine scale_h (1):\n     Not enough space\n %%%",
            "Not enough space",
        ),
        ("ERROR: Cannot open file silicon.data (../read_data.cpp:1\n", "Cannot open file"),
        ("all is well\n", ""),
    ],
)
def test_the_last_words_of_a_code_that_broke_down(tmp_path, text, reason):
    file = tmp_path / "out"
    output = ReferenceOutput(ALL, [file])
    output.mark()
    file.write_text(text)
    assert output.complaints() == []
    words = output.last_words()
    assert (reason in words[0]) if reason else (words == [])


def test_the_standard_output_of_a_process_is_found(tmp_path, waiting):
    file = tmp_path / "out"
    with file.open("w") as stream:
        process = waiting("cat", stdout=stream)
    assert standard_output(process.pid) == (file, False)
    assert ReferenceOutput(ALL, [file], process.pid).files == (file,)
    assert program_name(process.pid) in ("cat", Path(sys.executable).name)  # before its exec


def test_the_standard_output_is_found_behind_a_pipe(tmp_path, waiting):
    """As mpirun and scripts make it."""
    file = tmp_path / "out"
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['cat'], stdout=subprocess.PIPE)\n"
        "print(child.pid, file=sys.stderr, flush=True)\n"
        "child.wait()\n"
    )
    with file.open("w") as stream:
        process = waiting(
            sys.executable, "-c", script, stdout=stream, stderr=subprocess.PIPE, text=True
        )
    child = int(process.stderr.readline())
    assert standard_output(child) == (file, True)
    process.stderr.close()


def test_nothing_is_found_of_a_process_that_is_gone():
    process = subprocess.Popen(["true"])
    process.wait(30)
    assert standard_output(process.pid) == (None, False)
    assert program_name(process.pid) == ""
    assert ReferenceOutput(ALL, (), process.pid).complaints() == []


def test_over_tcp_the_logs_of_all_clients_of_the_run_are_looked_at(tmp_path):
    (tmp_path / "primitive.xyz").write_text("1\n\nCu 0 0 0\n")
    run = tmp_path / "run.toml"
    text = (
        '[crystal]\nprimitive = "primitive.xyz"\nsupercell = [2, 2, 2]\n'
        "[expansion]\ncutoffs = { 2 = 3.0 }\n"
        '[reference]\ncommand = "pw.x"\nclients = 2\noutput_file = "elsewhere.out"\n'
    )
    run.write_text(text)
    assert output_files(load_configuration(run)) == (tmp_path / "elsewhere.out",)
    run.write_text(f'{text}address = "tcp://127.0.0.1:31415"\n')
    logs = tmp_path / "run" / "logs"
    expected = ("elsewhere.out", logs / "reference-1.log", logs / "reference-2.log")
    assert output_files(load_configuration(run)) == tuple(tmp_path / name for name in expected)


def test_nothing_is_looked_at_without_patterns(tmp_path):
    file = tmp_path / "out"
    output = ReferenceOutput([], [file], os.getpid())
    output.mark()
    file.write_text(WARNING)
    assert output.complaints() == []
