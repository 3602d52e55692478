"""run.toml is read whole; every mistake is named with its key, its value and a remedy."""

from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anharm.configuration import RunConfiguration, load_configuration
from anharm.errors import ConfigurationError

MINIMAL = """
[crystal]
primitive = "primitive.xyz"
supercell = [2, 2, 2]
[expansion]
cutoffs = { 2 = 5.0, 3 = 4.0 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configuration")
    write(folder / "primitive.xyz", bulk("Si"), format="extxyz")
    (folder / "input.xml").write_text("<simulation/>")
    (folder / "pw.in").write_text("")
    return folder


def load(folder: Path, text: str) -> RunConfiguration:
    path = folder / "run.toml"
    path.write_text(text)
    return load_configuration(path)


def message(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text)
    return str(caught.value)


def test_crystal_and_expansion_are_enough(folder: Path) -> None:
    configuration = load(folder, MINIMAL)
    assert configuration.crystal.primitive == folder / "primitive.xyz"
    assert configuration.crystal.supercell == ((2, 0, 0), (0, 2, 0), (0, 0, 2))
    assert configuration.expansion.cutoffs == {2: 5.0, 3: 4.0}
    assert configuration.training.factor == 3.0
    assert configuration.engine is None and configuration.reference is None
    assert configuration.run.directory == folder / "run"
    assert configuration.text == MINIMAL and configuration.path == folder / "run.toml"


def test_every_section_is_read(folder: Path) -> None:
    configuration = load(
        folder,
        MINIMAL.replace("3 = 4.0", "3 = { 3 = 3, 2 = 4.5 }")
        + """
        [engine]
        input = "input.xml"
        [training]
        rule = "fixed"
        threshold = 0.1
        [reference]
        address = "tcp://127.0.0.1:31415"
        command = "pw.x -ipi NAME:UNIX"
        clients = 2
        input = "pw.in"
        files = ["../configuration0/pw.in"]
        [run]
        directory = "runs/one"
        mode = "asynchronous"
        """.replace("../configuration0", f"../{folder.name}"),
    )
    assert configuration.expansion.cutoffs == {2: 5.0, 3: {2: 4.5, 3: 3.0}}
    assert configuration.reference is not None and configuration.engine is not None
    assert configuration.reference.command_lines == ("pw.x -ipi NAME:UNIX",) * 2
    assert configuration.reference.files == (folder / "pw.in",)
    assert configuration.run.directory == folder / "runs/one"
    configuration.require("engine", "reference", "run")


def test_a_configuration_cannot_be_changed(folder: Path) -> None:
    configuration = load(folder, MINIMAL)
    with pytest.raises(ValidationError):
        configuration.training.factor = 2.0


def test_all_problems_are_listed_at_once(folder: Path) -> None:
    text = message(
        folder,
        MINIMAL.replace('"primitive.xyz"', '"absent.cif"')
        + "[training]\nfacto = 3.0\nwindow = 0\n[trainin]\n"
        + '[engine]\ninput = "absent.xml"\n',
    )
    assert "run.toml: 5 problems" in text
    assert f"the file {folder / 'absent.xml'} does not exist" in text
    assert f"the file {folder / 'absent.cif'} does not exist" in text
    assert "training.facto: unknown key; did you mean `factor`?" in text
    assert "training.window = 0: expected a number of steps from 1" in text
    assert "trainin: unknown key; did you mean `training`?" in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[2, 2, 2]", "[2, 2]", "crystal.supercell = [2, 2]: expected three integers"),
        ("[2, 2, 2]", "[2, 0, 2]", "at least 1"),
        ("[2, 2, 2]", "[2.0, 2, 2]", "crystal.supercell = [2.0, 2, 2]"),
        ("[2, 2, 2]", "[[1, 0, 0], [0, 1, 0], [1, 1, 0]]", "determinant is 0"),
        ("[2, 2, 2]", "[1000, 1000, 1000]", "at most 100000"),
        ("[2, 2, 2]", "[true, 1, 1]", "crystal.supercell"),
        ("2 = 5.0", "1 = 5.0", "expansion.cutoffs"),
        ("2 = 5.0", "7 = 5.0", "the order '7' is not one of 2 to 6"),
        ("2 = 5.0", "2 = -5.0", "order 2 is -5.0, expected above 0"),
        ("2 = 5.0", "2 = nan", "order 2 is nan"),
        (
            "2 = 5.0",
            '2 = "cell"',
            "order 2 is 'cell', expected a number in Angstrom or \"supercell\"",
        ),
        ("3 = 4.0", '3 = "supercell"', "order 3 is 'supercell', expected a number in Angstrom"),
        ("2 = 5.0", '2 = "5"', "order 2 is '5', expected a number"),
        ("3 = 4.0", "3 = { 4 = 4.0 }", "order 3: the number of bodies '4'"),
        ("{ 2 = 5.0, 3 = 4.0 }", "{}", "expected a table of cutoffs"),
        ('primitive = "primitive.xyz"', "", "crystal.primitive: missing"),
        ('"primitive.xyz"', '"."', "is not a file"),
        ("[expansion]", "[expansions]", "did you mean `expansion`?"),
    ],
)
def test_a_wrong_crystal_or_expansion_is_named(
    folder: Path, old: str, new: str, expected: str
) -> None:
    assert expected in message(folder, MINIMAL.replace(old, new))


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("[training]\nfactor = 0.5", "training.factor = 0.5: expected a number above 1"),
        ("[training]\nfactor = inf", "training.factor = Infinity"),
        ("[training]\nbudget = true", "training.budget = true"),
        ("[training]\nbudget = 2", "training.budget = 2: the 4 labels"),
        ("[training]\nseed = 1.0", "training.seed = 1.0: expected an integer"),
        ("[training]\nwindow = 5", "minimum_interval = 10: the average needs 10 errors"),
        (
            '[training]\nrule = "often"',
            '"trajectory-average", "fixed", "adaptive-history" or "none"',
        ),
        ('[training]\nrule = "fixed"', 'training: rule = "fixed" needs threshold'),
        (
            "[training]\nthreshold = 0.1",
            'training: threshold has no effect with rule = "trajectory-average" (its own keys: '
            'factor); remove it, or set rule = "fixed" or "adaptive-history"',
        ),
        (
            '[training]\nrule = "adaptive-history"\nfactor = 2.0',
            'factor has no effect with rule = "adaptive-history" (its own keys: critical_factor,',
        ),
        (
            '[training]\nrule = "fixed"\nthreshold = 0.1\nhistory_refits = 5\nfactor = 2.0',
            "factor, history_refits have no effect",
        ),
        ("training = 3", "expected a table"),
        ('[reference]\naddress = "localhost"', "expected `unix:NAME` or `tcp://HOST:PORT`"),
        ('[reference]\naddress = "tcp://localhost:70000"', "tcp://HOST:PORT"),
        ('[reference]\ncommand = "pw.x \'a"', "cannot be split"),
        ('[reference]\ncommand = ["a", "b"]\nclients = 2', "lists 2 command lines"),
        ('[reference]\ninput_format = "abinit-in"', "no reference.input"),
        ('[reference]\nfiles = ["absent"]', "reference.files[0] = "),
        ('[engine]\ninput = "absent.xml"', 'engine.input = "absent.xml": the file'),
        ('[engine]\ninput = ["primitive.xyz", "absent.xml"]', 'engine.input[1] = "absent.xml": '),
        ('[reference]\ncommand = "pw.x \'a"', 'reference.command = "pw.x \'a"'),
        ("[reference.calculator]\nname = 'tersoff'", "module:callable"),
        (
            "[reference]\ncommand = 'a'\n[reference.calculator]\nname = 'tersoff-silicon'",
            "keep one of the two",
        ),
        ('[run]\nmode = "fast"', 'expected "synchronous" or "asynchronous"'),
        ('[run]\nbroker = "udp://x:1"', "tcp://127.0.0.1:5555"),
        ("[run]\nconnection_limit = 0", "a time in seconds above 0"),
    ],
)
def test_a_wrong_setting_is_named(folder: Path, addition: str, expected: str) -> None:
    text = f"{addition}\n{MINIMAL}" if "=" in addition.split("\n")[0] else MINIMAL + addition
    assert expected in message(folder, text)


def test_a_syntax_error_gives_its_line(folder: Path) -> None:
    assert "line 3" in message(folder, "[crystal]\n\nsupercell = 2 2\n")


def test_an_absent_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"run\.toml does not exist"):
        load_configuration(tmp_path / "run.toml")
    with pytest.raises(ConfigurationError, match="is a folder"):
        load_configuration(tmp_path)
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_configuration(tmp_path / "run.toml")


def test_a_missing_section_comes_with_an_example(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\[engine\] and \[reference\] missing") as caught:
        load(folder, MINIMAL).require("engine", "reference", "run")
    assert 'input = "input.xml"' in str(caught.value)


def test_the_broker_socket_is_short_and_private_to_the_directory(folder: Path) -> None:
    deep = "/".join(["a-folder-with-a-long-name"] * 8)
    endpoints = {
        load(folder, f'{MINIMAL}[run]\ndirectory = "{name}"').run.broker_endpoint
        for name in (deep, "other")
    }
    assert len(endpoints) == 2
    assert all(e.startswith("ipc:///") and len(e) < 107 for e in endpoints)
    tcp = f'{MINIMAL}[run]\nbroker = "tcp://127.0.0.1:5555"'
    assert load(folder, tcp).run.broker_endpoint == "tcp://127.0.0.1:5555"


def test_a_temporary_folder_too_long_for_sockets_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "x" * 120)
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        _ = load(folder, MINIMAL).run.broker_endpoint


REMOTE = ("tcp://0.0.0.0:5555", "tcp://192.168.0.7:5555", "tcp://head:5555", "tcp://[::]:5555")
LOCAL = ("tcp://127.0.0.1:5555", "tcp://127.0.1.1:5555", "tcp://[::1]:5555", "tcp://localhost:5555")


@pytest.mark.parametrize("address", REMOTE)
def test_what_other_hosts_can_reach_needs_keys_or_a_word(folder: Path, address: str) -> None:
    with pytest.raises(ConfigurationError, match="anharm keys"):
        load(folder, f'{MINIMAL}[run]\nbroker = "{address}"')
    with pytest.raises(ConfigurationError, match="allow_remote = true"):
        load(folder, f'{MINIMAL}[reference]\naddress = "{address}"')
    (folder / "keys").mkdir(exist_ok=True)
    run = load(folder, f'{MINIMAL}[run]\nbroker = "{address}"\nkeys = "keys"').run
    assert run.keys == folder / "keys"
    load(folder, f'{MINIMAL}[reference]\naddress = "{address}"\nallow_remote = true')


@pytest.mark.parametrize("address", LOCAL)
def test_what_is_of_this_host_needs_none(folder: Path, address: str) -> None:
    load(folder, f'{MINIMAL}[run]\nbroker = "{address}"\n[reference]\naddress = "{address}"')


def test_a_folder_of_keys_that_is_not_there_is_told_how_to_make(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"does not exist; make one with `anharm keys"):
        load(folder, f'{MINIMAL}[run]\nkeys = "no-keys"')


def test_two_configurations_have_two_reference_addresses(folder: Path) -> None:
    first = load(folder, f"{MINIMAL}[reference]\n").reference
    (folder / "other.toml").write_text(f"{MINIMAL}[reference]\n")
    second = load_configuration(folder / "other.toml").reference
    assert first is not None and second is not None
    assert first.address.startswith("unix:anharm-") and first.address != second.address


def test_the_words_that_reject_a_label_are_regular_expressions(folder: Path) -> None:
    reference = load(folder, f'{MINIMAL}[reference]\nreject_output = ["not? converged"]').reference
    assert reference is not None and reference.reject_output == ("not? converged",)
    reference = load(folder, f'{MINIMAL}[reference]\noutput_file = "later/cp2k.out"').reference
    assert reference is not None
    assert reference.output_file == (folder / "later" / "cp2k.out",)  # need not exist yet


@pytest.mark.parametrize(
    ("pattern", "words"), [("(", "no regular expression"), (".*", "matches every line")]
)
def test_an_expression_that_cannot_work_is_refused(folder: Path, pattern: str, words: str) -> None:
    text = message(folder, f'{MINIMAL}[reference]\nreject_output = ["{pattern}"]')
    assert words in text and "reference.reject_output" in text


@given(
    key=st.sampled_from(["factor", "window", "budget", "seed", "rule", "quiet_steps"]),
    value=st.one_of(
        st.text(st.characters(codec="ascii", categories=["L"]), min_size=1).map(lambda s: f'"{s}"'),
        st.integers(max_value=-1).filter(lambda n: n > -(2**63)).map(str),
        st.just("[1, 2]"),
        st.just("2026-01-01"),
    ),
)
def test_any_wrong_value_gives_one_message_with_its_key(folder: Path, key: str, value: str) -> None:
    text = message(folder, f"{MINIMAL}[training]\n{key} = {value}\n")
    assert "run.toml: 1 problem" in text and f"training.{key} = " in text and "expected" in text


def test_what_clients_send_to_i_pi_is_checked(folder: Path) -> None:
    chosen = load(folder, MINIMAL + '[client]\nextras = ["committee_pot"]\ncommittee = 4\n')
    assert chosen.client.extras == ["committee_pot"] and chosen.client.committee == 4
    text = message(folder, MINIMAL + '[client]\nextras = ["force_error"]\n')
    assert "[client]" in text or "client" in text
    assert "there are no extras named 'force_error'; known: force_std_max" in text
