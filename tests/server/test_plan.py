"""`anharm plan`: what a run.toml asks for, before anything is computed."""

import shutil
import socket
from pathlib import Path
from uuid import uuid4

import pytest

from anharm.configuration import load_configuration
from anharm.errors import ConfigurationError
from anharm.server.plan import format_plan, make_plan
from anharm.wire.addresses import SOCKET_PREFIX

INPUTS = Path(__file__).parents[2] / "inputs" / "si"
CRYSTAL = """[crystal]
primitive = "primitive.xyz"
supercell = [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]
[expansion]
cutoffs = { 2 = 5.0, 3 = 4.0, 4 = 3.5 }
"""
RUN = """[engine]
input = "input.xml"
[reference]
address = "unix:NAME-label"
command = "true"
"""


@pytest.fixture
def plan(tmp_path):
    name = f"anharm-plan-{uuid4().hex[:8]}"
    for file in ("primitive.xyz", "init.xyz", "input.xml"):
        shutil.copy(INPUTS / file, tmp_path)
    xml = tmp_path / "input.xml"
    xml.write_text(xml.read_text().replace("anharm-silicon", name))

    def make(text):
        (tmp_path / "run.toml").write_text(text.replace("NAME", name))
        return make_plan(load_configuration(tmp_path / "run.toml"))

    make.name = name
    return make


def test_crystal_and_expansion_are_enough(plan):
    found = plan(CRYSTAL)
    assert found["space_group"].startswith("Fd-3m")
    assert found["atoms"] == 64
    assert set(found["parameters"]) == {"2", "3", "4"}
    assert found["parameters_total"] == sum(found["parameters"].values())
    before = found["parameters_before_sum_rules"]
    assert all(found["parameters"][order] <= before[order] for order in before)
    assert 5.42 < found["largest_cutoff_that_fits"] < 5.44  # half of 2 x 5.432
    assert found["labels_to_determine_all"] == 1  # 189 independent forces per label
    assert "reachability" not in found


def test_all_pairs_of_the_supercell_need_no_cutoff(plan):
    found = plan(CRYSTAL.replace("2 = 5.0", '2 = "supercell"'))
    assert found["parameters"]["2"] == 25
    assert "all pairs of the supercell" in format_plan(found)


def test_more_labels_are_needed_where_a_label_says_less(plan):
    small = CRYSTAL.replace("[[-2, 2, 2], [2, -2, 2], [2, 2, -2]]", "[3, 3, 3]")
    found = plan(small.replace("5.0, 3 = 4.0", "3.8, 3 = 3.8").replace("3.5", "3.8"))
    needed = found["parameters_total"] / (3 * 54 - 3)
    assert needed <= found["labels_to_determine_all"] < needed + 1


def test_the_text_says_the_same(plan):
    found = plan(CRYSTAL)
    text = format_plan(found)
    assert f"space group {found['space_group']}, 64 atoms" in text
    for order, count in found["parameters"].items():
        (row,) = [line for line in text.splitlines() if line.startswith(order + " ")]
        assert row.split()[-2:] == [str(count), str(found["parameters_before_sum_rules"][order])]
    assert f"{found['parameters_total']}" in text


def test_memory_is_estimated_stage_by_stage(plan):
    found = plan(CRYSTAL)
    memory = found["memory"]
    assert memory["command"] == "fit"
    assert plan(CRYSTAL + RUN)["memory"]["command"] == "run"
    assert all(mb >= 0 for mb in memory["stages_mb"].values())
    assert 100 < memory["needed_mb"] < memory["available_mb"]
    text = format_plan(found)
    assert "matrices of a refit" in text and "available on this machine" in text


def test_an_expansion_that_fits_into_no_machine_is_refused_before_it_is_built(plan):
    wide = CRYSTAL.replace("[[-2, 2, 2], [2, -2, 2], [2, 2, -2]]", "[9, 9, 9]")
    wide = wide.replace("3 = 4.0, 4 = 3.5", "3 = 9.0, 4 = 9.0, 5 = 9.0, 6 = 9.0")
    with pytest.raises(ConfigurationError, match=r"run\.toml.*of order 6.*of memory.*available"):
        plan(wide)


def test_first_order_and_rotational_sum_rules_are_planned(plan):
    off = plan(CRYSTAL)
    assert off["rotational_sum_rules"] is False and "1" not in off["parameters"]
    on = plan(CRYSTAL + "rotational_sum_rules = true\n")
    assert on["rotational_sum_rules"] is True
    assert on["parameters"] == off["parameters"]  # silicon obeys them anyway
    assert "rotational sum rules of order 2      on" in format_plan(on)
    forces = plan(CRYSTAL + "first_order = true\n")
    assert forces["parameters"] == {"1": 0, **off["parameters"]}
    (row,) = [line for line in format_plan(forces).splitlines() if line.startswith("1 ")]
    assert "forces on the ideal sites" in row
    with pytest.raises(ConfigurationError, match=r"run\.toml.*choose one of them"):
        plan(CRYSTAL + "first_order = true\nrotational_sum_rules = true\n")


def test_what_a_run_needs_is_looked_for(plan):
    state = plan(CRYSTAL + RUN)["reachability"]
    assert state["inputs"] == "consistent"
    assert "i-pi" in state["executables"]
    assert state["address of i-PI"] == f"unix:{plan.name} (free)"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{SOCKET_PREFIX}{plan.name}-label")
        server.listen()
        state = plan(CRYSTAL + RUN)["reachability"]
    Path(f"{SOCKET_PREFIX}{plan.name}-label").unlink()
    assert state["address of reference"] == f"unix:{plan.name}-label (in use)"


def test_what_is_missing_is_said_and_the_rest_is_still_planned(plan):
    found = plan(CRYSTAL + RUN.replace('"true"', '"no-such-dft-code"'))
    assert found["parameters_total"] > 0
    assert "'no-such-dft-code' was not found" in found["reachability"]["inputs"]
    assert "not ready" in format_plan(found)


def test_a_cutoff_beyond_the_supercell_is_refused(plan):
    with pytest.raises(ConfigurationError, match=r"run.toml.*cutoff 6.*largest cutoff.*5\.43"):
        plan(CRYSTAL.replace("2 = 5.0", "2 = 6.0"))
