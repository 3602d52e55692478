"""Several i-PI inputs and several sockets: names, addresses, and what must agree."""

import shutil
from pathlib import Path

import pytest

from anharm.configuration import load_configuration
from anharm.errors import ConfigurationError
from anharm.extras import DEFAULT_EXTRAS
from anharm.server.engine_runs import (
    address_of,
    extras_sent,
    ideal_configuration,
    read_engine_runs,
)
from anharm.server.learner import build_system

INPUTS = Path(__file__).parents[2] / "inputs" / "si"


@pytest.fixture
def folder(tmp_path):
    for name in ("run.toml", "init.xyz", "primitive.xyz", "input.xml"):
        shutil.copy(INPUTS / name, tmp_path)
        (tmp_path / name).chmod(0o644)
    text = (tmp_path / "input.xml").read_text()
    (tmp_path / "hot.xml").write_text(text.replace("anharm-silicon", "anharm-hot"))
    return tmp_path


def load(folder, engine):
    path = folder / "run.toml"
    path.write_text(path.read_text().replace('input = "input.xml"', engine))
    return load_configuration(path)


def test_the_only_run_takes_any_name(folder):
    (run,) = runs = read_engine_runs(load(folder, 'input = "input.xml"'))
    assert run.folder(folder) == folder and run.label == "i-pi"
    assert address_of(runs, None) == ("trajectory", "unix:anharm-silicon")
    assert address_of(runs, "mine") == ("mine", "unix:anharm-silicon")


def test_several_runs_are_named_after_their_files(folder):
    runs = read_engine_runs(load(folder, 'input = ["input.xml", "hot.xml"]'))
    assert [run.folder(folder) for run in runs] == [folder / "input", folder / "hot"]
    assert address_of(runs, "hot") == ("hot", "unix:anharm-hot")
    for name in (None, "cold"):
        with pytest.raises(ConfigurationError, match=r"input, hot: .*--trajectory"):
            address_of(runs, name)


def test_files_of_one_name_are_refused(folder):
    (folder / "more").mkdir()
    shutil.copy(folder / "hot.xml", folder / "more")
    shutil.copy(folder / "init.xyz", folder / "more")
    with pytest.raises(ConfigurationError, match="'hot' more than once"):
        read_engine_runs(load(folder, 'input = ["hot.xml", "more/hot.xml"]'))


def test_a_name_of_a_folder_of_ours_is_refused(folder):
    shutil.copy(folder / "hot.xml", folder / "logs.xml")
    with pytest.raises(ConfigurationError, match="'logs'"):
        read_engine_runs(load(folder, 'input = ["hot.xml", "logs.xml"]'))


def test_inputs_need_the_same_order_of_atoms(folder):
    lines = (folder / "init.xyz").read_text().splitlines()
    swapped = [*lines[:2], lines[3], lines[2], *lines[4:]]
    (folder / "other.xyz").write_text("\n".join(swapped) + "\n")
    hot = folder / "hot.xml"
    hot.write_text(hot.read_text().replace("init.xyz", "other.xyz"))
    configuration = load(folder, 'input = ["input.xml", "hot.xml"]')
    with pytest.raises(ConfigurationError, match=r"hot\.xml has its atoms in another order"):
        ideal_configuration(read_engine_runs(configuration), build_system(configuration))


def test_systems_on_one_socket_need_the_same_atoms(folder):
    path = folder / "input.xml"
    text = path.read_text()
    start, end = text.index("  <system>"), text.index("</system>") + len("</system>\n")
    lines = (folder / "init.xyz").read_text().splitlines()
    lines[5] = lines[5].replace("Si", "Ge")
    (folder / "other.xyz").write_text("\n".join(lines) + "\n")
    second = text[start:end].replace("init.xyz", "other.xyz")
    path.write_text(text[:end] + second + text[end:])
    with pytest.raises(ConfigurationError, match=r"system 2 has GeSi63.*the first one Si64"):
        read_engine_runs(load(folder, 'input = "input.xml"'))


def sent(folder, client="", **replaced):
    text = (folder / "input.xml").read_text()
    for old, new in replaced.items():
        text = text.replace(old, new)
    (folder / "input.xml").write_text(text)
    toml = folder / "run.toml"
    toml.write_text(toml.read_text() + client)
    configuration = load_configuration(toml)
    return extras_sent(configuration, read_engine_runs(configuration))


def test_lattice_clients_send_the_extras_that_the_i_pi_input_writes(folder):
    assert sent(folder).names == ("force_std_max",)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("positions", ()),
        ("force_std", ("force_std",)),
        ("committee_force_std_max", ("force_std_max",)),
        ("committee_pot", ("committee_pot",)),
    ],
)
def test_extras_are_known_by_their_whole_names(folder, written, names):
    choice = sent(folder, force_std_max=written)
    assert choice.names == names
    assert choice.n_members == (8 if "committee_pot" in names else 0)


@pytest.mark.parametrize("kind", ["", "extra_type='raw'"])
def test_where_i_pi_writes_the_whole_text_of_the_extras_it_is_sent_the_usual_ones(folder, kind):
    choice = sent(folder, **{"extra_type='force_std_max'": kind})
    assert choice.names == DEFAULT_EXTRAS


def test_a_list_of_extras_in_run_toml_decides(folder):
    assert sent(folder, '\n[client]\nextras = ["model_version"]\n').names == ("model_version",)


def test_a_committee_that_i_pi_would_not_write_is_refused(folder):
    with pytest.raises(ConfigurationError, match="a committee of 4 is asked for and nothing"):
        sent(folder, "\n[client]\ncommittee = 4\n")
