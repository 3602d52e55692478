"""i-PI goes on from the whole checkpoint that lies furthest in the run."""

import pytest

from anharm.server.engine_restart import newest_checkpoint, with_total_steps, without_total_steps

OUTPUT = "<output prefix='si'><checkpoint filename='chk' stride='10' {}/></output>"


def checkpoint(step, text="<system/>"):
    return f"<simulation><total_steps>50</total_steps><step>{step}</step>{text}</simulation>"


@pytest.fixture
def folder(tmp_path):
    def make(files, output="<output prefix='si'><checkpoint filename='chk'/></output>"):
        (tmp_path / "input.xml").write_text(f"<simulation>{output}</simulation>")
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        found = newest_checkpoint(tmp_path, tmp_path / "input.xml")
        return found and (found.path.name, found.step)

    return make


def test_none(folder):
    assert folder({}) is None


def test_restart_written_in_good_order(folder):
    assert folder({"RESTART": checkpoint(17), "si.chk": checkpoint(10)}) == ("RESTART", 17)


def test_a_kill_after_an_earlier_interruption(folder):
    assert folder({"RESTART": checkpoint(17), "si.chk": checkpoint(40)}) == ("si.chk", 40)


@pytest.mark.parametrize(
    "broken", ["", "<simula", checkpoint(90)[:-5], "<other/>", checkpoint("many")]
)
def test_a_file_that_is_not_whole(folder, broken):
    assert folder({"RESTART": checkpoint(7), "si.chk": broken}) == ("RESTART", 7)
    assert folder({"RESTART": broken, "si.chk": broken}) is None


def test_numbered_checkpoints(folder):
    files = {f"si.chk_{n}": checkpoint(10 * n) for n in range(12)}
    files["si.chk_11"] = checkpoint(110)[:40]
    files["si.chk_old"] = checkpoint(999)
    assert folder(files, OUTPUT.format("overwrite='False'")) == ("si.chk_10", 100)


def test_the_defaults_of_ipi(folder):
    assert folder({"i-pi.checkpoint": checkpoint(3)}, output="") == ("i-pi.checkpoint", 3)
    assert folder({"i-pi.restart": checkpoint(4)}, "<output><checkpoint/></output>") == (
        "i-pi.restart",
        4,
    )


def test_only_the_number_of_steps_may_change():
    short, long = (f"<a/>\n<total_steps> {n} </total_steps>\n<b/>" for n in (10, 2000))
    assert without_total_steps(short) == without_total_steps(long)
    assert without_total_steps(short) != without_total_steps(long.replace("b", "c"))
    assert "<total_steps>70</total_steps><step>5<" in with_total_steps(checkpoint(5), 70)
