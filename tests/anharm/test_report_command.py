"""`anharm report`: one page that needs nothing else, small whatever the length of the run."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from anharm.html import Html, element
from anharm.report_page import residuals
from anharm.server.decision import Decision
from anharm.server.record import Answer, Observations
from anharm.server.run_data import read_run

EMPTY = {"meta", "hr", "br"}


class Page(HTMLParser):
    """Checks the nesting of a page and collects what is in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.ids += [known["id"]] if "id" in known else []
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href")]
        assert tag not in ("script", "link", "iframe", "object"), tag
        if tag not in EMPTY:
            self.open.append(tag)
        self.words.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.handle_endtag(tag)

    def handle_data(self, data):
        for tag in set(self.open):
            self.words[tag][-1] += data


@pytest.fixture
def report(command, made_run, tmp_path):
    def make(*words) -> Page:
        output = tmp_path / "report.html"
        done = command("report", made_run.directory, "--output", output, *words)
        assert done.code == 0, done.err
        assert str(output) in done.out
        return Page(output.read_text())

    return make


def test_the_page_tells_what_happened(report, made_run):
    made_run.learn()
    made_run.walk(200)
    made_run.learn(step=100)
    made_run.walk(100, first_step=200)
    made_run.walk(60, trajectory="second & last")
    made_run.learn(step=250)
    (made_run.directory / "silicon.out").write_text(
        "# column   1     --> step : The current simulation time step.\n"
        "# cols.  2-4     --> dipole{debye} : Three numbers.\n"
        "# column   5     --> temperature{kelvin} : The current temperature.\n"
        + "".join(f" {step} 0 0 0 {300 + step % 7}\n" for step in range(0, 300, 10))
    )
    made_run.record.set_metadata({"ended": "i-PI ended the dynamics", "failure": ""})
    predicted = [label.prediction for label in made_run.record.labels()]
    made_run.record.close()
    page = report()
    text = "".join(page.words["body"])

    # It stands alone: no script, nothing from elsewhere, every link ends inside.
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)

    # Every figure is a drawing with a caption that says what to look for or what it shows.
    figures, captions = page.words["figure"], page.words["figcaption"]
    assert len(figures) == len(captions) == len(page.words["svg"]) >= 9
    assert all(len(caption) > 80 for caption in captions)
    assert text.count("temperature (kelvin)") == 1
    assert {"trajectory trajectory", "trajectory second & last"} <= set(page.words["h3"])

    # The table of labels says why each was taken.
    assert "The run has ended: i-PI ended the dynamics." in text
    assert "360" in text
    cells = page.words["td"]
    assert cells.count("trajectory-average") == 2 and "why" in cells
    assert f"{predicted[1].force_rmse:.4g}" in cells


def test_every_ipi_and_every_system_shows_its_temperature(report, made_run):
    text = made_run.record.metadata()["configuration"]
    several = text.replace('input = "input.xml"', 'input = ["hot.xml", "cold.xml"]')
    made_run.record.set_metadata({"configuration": several})
    made_run.learn()
    made_run.walk(50, trajectory="hot")
    made_run.walk(50, trajectory="cold")
    head = "# column   1     --> step : .\n# column   2     --> temperature{kelvin} : .\n"
    for engine, name in (
        ("hot", "silicon.out"),
        ("cold", "silicon.s0_out"),
        ("cold", "silicon.s1_out"),
    ):
        folder = made_run.directory / engine
        folder.mkdir(exist_ok=True)
        (folder / f"{engine}.xml").write_text((made_run.directory / "input.xml").read_text())
        (folder / name).write_text(head + "".join(f" {step} 300\n" for step in range(50)))
    titles = report("--no-replay").words["h3"]
    assert [title for title in titles if title.startswith("temperature")] == [
        "temperature, from hot/silicon.out",
        "temperature, from cold/silicon.s0_out",
        "temperature, from cold/silicon.s1_out",
    ]


def test_coverage_is_that_of_the_residuals(report, made_run):
    for step in (None, 100, 200, 300):
        made_run.learn(step=step)
    run = read_run(made_run.directory)
    z = residuals(run.labels)
    assert z.shape == (3 * 24,)
    first = run.labels[1].label
    wanted = (first.prediction.forces - first.answer.forces) / first.prediction.predictive_force_std
    np.testing.assert_allclose(z[:24], wanted.ravel())
    made_run.walk(20)
    page = report("--no-replay")
    assert f"{100 * np.mean(np.abs(z) < 1.96):.1f} %" in page.words["td"]
    assert "was not asked for" in "".join(page.words["p"])


def test_what_comes_from_outside_is_shown_as_text(report, made_run):
    nasty = "<script>alert('x')</script>"
    made_run.learn()
    made_run.walk(20, trajectory=nasty)
    request = made_run.record.request_for(made_run.displaced().positions, np.eye(3), nasty)
    made_run.record.add_label(
        request.id, Answer(0.0, np.zeros((8, 3)), client=nasty), accepted=False, reasons=[nasty]
    )
    made_run.record.log(nasty, "warning")
    made_run.record.set_metadata({"failure": nasty, "ended": ""})
    page = report()
    assert "".join(page.words["body"]).count(nasty) >= 6
    assert "trajectory " + nasty in page.words["h3"]


@pytest.mark.parametrize("n_labels", [0, 1])
def test_a_run_that_has_hardly_begun_has_a_page_too(report, made_run, n_labels):
    for _ in range(n_labels):
        made_run.learn()
    text = "".join(report().words["body"])
    assert "No step has been made yet." in text
    assert "The run was going on" in text  # this process holds the record
    made_run.record.close()
    assert "The run was killed" in "".join(report().words["body"])


def test_a_million_steps_stay_small_and_quick(report, made_run, tmp_path: Path):
    made_run.learn()
    random = np.random.default_rng(0)
    for first in range(0, 1_000_000, 4000):
        errors = random.gamma(20, 1e-3, 4000)
        versions = np.full(4000, 1 + first // 100_000)
        made_run.record.add_observations(
            Observations("trajectory", first, errors, errors, errors, -errors, versions)
        )
    spike = Observations("spike", 0, *(np.r_[np.full(999, 0.02), 0.5] for _ in range(4)),
                         np.full(1000, 1))  # fmt: skip
    made_run.record.add_observations(spike)
    for number in range(60):
        decision = Decision("trajectory", 16_000 * number, 1, "label", "audit", 0.02, None, 0.02, 9)
        atoms = made_run.displaced()
        request = made_run.record.request_for(atoms.positions, np.eye(3), "audit", decision)
        made_run.record.add_label(request.id, Answer(0.0, np.zeros((8, 3)), seconds=1.0))
    started = time.process_time()
    report("--no-replay")
    assert time.process_time() - started < 30
    text = (tmp_path / "report.html").read_text()
    assert len(text) < 2_000_000
    assert "1,001,000" in text


def test_elements_escape_texts_and_attributes():
    inner = element("b", "1 < 2 & 3")
    assert inner == "<b>1 &lt; 2 &amp; 3</b>"
    assert element("p", inner, Html("<i>x</i>"), class_='a"b') == (
        '<p class="a&quot;b"><b>1 &lt; 2 &amp; 3</b><i>x</i></p>'
    )


def test_a_page_that_cannot_be_written_is_named(command, made_run) -> None:
    made_run.learn()
    (made_run.directory / "report.html.new").mkdir()
    done = command("report", made_run.directory, "--no-replay")
    assert done.code == 1
    assert re.search(r"cannot write .*report\.html: Is a directory", done.err)
