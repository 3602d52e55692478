"""Mistakes in the inputs: found before anything starts, one message each, nothing left behind."""

import os
import socket

import pytest

from anharm.wire.addresses import SOCKET_PREFIX

BOUND = 30.0  # seconds; in practice two


def expect(job, code, *fragments, flags=()):
    ended = job.run(*flags, within=BOUND)
    assert ended.code == code, ended.err
    for fragment in fragments:
        assert fragment in ended.message
    assert not (job.directory / "record.sqlite").exists()


SETTINGS = {
    "wrong key": ({"training__facto": 3.0}, ("training.facto: unknown key", "`factor`")),
    "wrong type": (
        {"training__budget": "many"},
        ('training.budget = "many"', "a number of labels from 1"),
    ),
    "cutoff with a unit": (
        {"expansion__cutoffs": {"2": "5.0 A"}},
        ("expansion.cutoffs", "'5.0 A'", "a number in Angstrom"),
    ),
    "no primitive file": (
        {"crystal__primitive": "nothing.cif"},
        ("crystal.primitive", "nothing.cif does not exist", "relative paths"),
    ),
    "no XML": ({"engine__input": "nothing.xml"}, ("engine.input", "nothing.xml does not exist")),
    "no such forcefield": (
        {"engine__forcefield": "other"},
        ("input.xml", "<ffsocket name='other'>", "present: anharm"),
    ),
    "no i-PI": (
        {"engine__command": "i-pee"},
        ("engine.command", "'i-pee' was not found", "install it"),
    ),
    "no reference code": (
        {"reference__calculator": None, "reference__command": "dft.x -in dft.in"},
        ("reference.command", "'dft.x' was not found", "full path"),
    ),
    "cutoff beyond the cell": (
        {"expansion__cutoffs": {"2": 9.0}},
        ("run.toml", "expansion.cutoffs: the cutoff 9 Angstrom", "that fits", "is 5.43"),
    ),
    "another supercell": (
        {"crystal__supercell": [4, 4, 4]},
        ("input.xml has 64 atoms (64 Si)", "has 128 (128 Si)", "same supercell"),
    ),
    "one address twice": (
        {"reference__address": "unix:twice", "run__broker": f"ipc://{SOCKET_PREFIX}twice"},
        ("run.broker and reference.address are both unix:twice", "change one"),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_mistake_in_run_toml(job, name):
    settings, fragments = SETTINGS[name]
    job.set(**settings)
    expect(job, 2, *fragments)


TEXTS = {
    "broken XML": (("</simulation>", ""), ("input.xml is not XML", "line")),
    "no socket": (
        ("ffsocket", "ffdirect"),
        ("input.xml: there is no <ffsocket>", "add"),
    ),
    "unknown unit": (
        ("<timestep units='femtosecond'>", "<timestep units='fortnight'>"),
        ("input.xml", "<timestep units='fortnight'> 1.0", "femtosecond"),
    ),
    "no init file": (("init.xyz", "start.xyz"), ("start.xyz", "does not exist")),
    "two sockets": (
        ("<system>", "<ffsocket name='b'><address> b </address></ffsocket>\n<system>"),
        ("2 <ffsocket>s (anharm, b)", 'engine.forcefield = "anharm"'),
    ),
    "force field without use": (
        ("<force forcefield='anharm'/>", "<force forcefield='gap'/>"),
        ("<force forcefield='gap'/> refers to no force field", "present: anharm"),
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_mistake_in_the_xml(job, name):
    change, fragments = TEXTS[name]
    job.set(engine__forcefield=None)
    job.edit("input.xml", change)
    expect(job, 2, *fragments)


def test_other_atoms_in_the_xml(job):
    job.edit("init.xyz", ("Si", "Ge"))
    expect(job, 2, "input.xml has 64 atoms (64 Ge)", "run.toml ([crystal]) has 64 (64 Si)")


def test_no_run_toml(job):
    job.run_file.unlink()
    expect(job, 2, f"the configuration file {job.run_file} does not exist")


def test_run_toml_that_is_not_toml(job):
    job.run_file.write_text("[crystal\n")
    expect(job, 2, f"{job.run_file}: this is not valid TOML", "line 1")


def test_other_atoms_in_the_dft_input(qe_job):
    text = (qe_job.folder / "qe8/pw.in").read_text().replace("nat=8", "nat=7")
    (qe_job.folder / "qe8/pw.in").write_text(text.replace("Si 4.0500000000 4.05", "! "))
    qe_job.set(reference__command="true")  # pw.x need not be there
    expect(qe_job, 2, "8 atoms (8 Si), the DFT input (reference.input) has 7 (7 Si)")


def test_another_cell_in_the_dft_input(qe_job):
    qe_job.edit("qe8/pw.in", ("5.4000000000 0.0000000000 0.0", "5.5000000000 0.0000000000 0.0"))
    qe_job.set(reference__command="true")
    expect(qe_job, 2, "lattice vectors differ by up to 0.1 Angstrom", "DFT input")


def listening(address):
    kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    server = socket.socket(kind)
    server.bind(address)
    server.listen()
    return server


def test_the_address_of_ipi_is_taken(job):
    text = (job.folder / "input.xml").read_text()
    name = text.partition("<address>")[2].partition("</address>")[0].strip()
    with listening(SOCKET_PREFIX + name):
        expect(job, 1, f"<ffsocket> in {job.folder}/input.xml", f"listens at unix:{name}")
    os.unlink(SOCKET_PREFIX + name)


def test_the_port_of_ipi_is_taken(job):
    with listening(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = (job.folder / "input.xml").read_text()
        name = text.partition("<address>")[2].partition("</address>")[0]
        job.edit(
            "input.xml",
            ("mode='unix'", "mode='inet'"),
            (f"<address>{name}</address>", f"<address>127.0.0.1</address><port>{port}</port>"),
        )
        expect(job, 1, "i-PI's <ffsocket>", f"listens at tcp://127.0.0.1:{port} already")


@pytest.mark.parametrize("key", ["reference__address", "run__broker"])
def test_a_port_of_anharm_is_taken(job, key):
    with listening(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        job.set(**{key: f"tcp://127.0.0.1:{port}"})
        name = key.replace("__", ".")
        expect(job, 1, f"{name}: somebody listens at tcp://127.0.0.1:{port}", "another address")


@pytest.mark.parametrize("key", ["reference__address", "run__broker"])
def test_a_socket_of_anharm_is_taken(job, key):
    path = str(job.folder / "taken")
    with listening(path):
        job.set(**{key: f"{'unix' if 'reference' in key else 'ipc'}:{'//' * ('run' in key)}{path}"})
        name = key.replace("__", ".")
        expect(job, 1, f"{name}: somebody listens at unix:{path}", "another address")


def test_nothing_to_resume(job):
    expect(job, 2, f"{job.directory} holds no run to resume", flags=("--resume",))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_directory_that_cannot_be_written(job):
    (job.folder / "runs").mkdir(mode=0o500)
    expect(job, 1, f"{job.folder}/runs", "cannot be written", "another run.directory")


def test_a_file_where_the_run_directory_should_be(job):
    (job.folder / "runs").write_text("")
    ended = job.run(within=BOUND)
    assert ended.code == 1
    assert f"the run directory {job.folder}/runs/silicon cannot be written" in ended.message
