"""The page of a report: what a run did, for someone who was not there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from matplotlib.figure import Figure

from anharm import report_figures as figures
from anharm._version import __version__
from anharm.convergence_command import ConvergenceCurve
from anharm.html import Html, element, joined, table
from anharm.model.crystal import FloatArray
from anharm.report_tables import failures, label_table, provenance
from anharm.server.engine_properties import EngineProperties
from anharm.server.run_data import ExplainedLabel, RunData, Trace

_MOST_TRAJECTORIES = 8
_PROPERTIES = ("temperature", "conserved")


@dataclass(frozen=True, eq=False)
class ReportInput:
    """All that a report is made of.

    Attributes
    ----------
    run : RunData
    is_running : bool
        Whether a broker was using the run directory.
    properties : list of EngineProperties
    curve : ConvergenceCurve or None
    why_no_curve : str
        Why the configurations were not replayed.
    """

    run: RunData
    is_running: bool
    properties: list[EngineProperties]
    curve: ConvergenceCurve | None
    why_no_curve: str = ""


def render(source: ReportInput) -> Html:
    """The whole page, which needs nothing from anywhere else."""
    run = source.run
    sections = {
        "Error along the trajectory": joined(_error_section(run)),
        "Learning curve": joined(_learning_section(run)),
        "Convergence": joined(_convergence_section(source)),
        "Calibration": joined(_calibration_section(run)),
        "Energy and temperature": joined(_energy_section(source)),
        "Timings": joined(_timing_section(run)),
        "Labels": label_table(run),
        "Failures": failures(run),
        "Configuration and versions": provenance(run),
    }
    names = {title: title.lower().replace(" ", "-") for title in sections}
    links = joined(element("a", title, href=f"#{name}") for title, name in names.items())
    body = joined(
        element("section", element("h2", title, id=names[title]), content)
        for title, content in sections.items()
    )
    title = f"anharm: {run.directory.name}"
    style = (files("anharm") / "report_style.css").read_text()
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(style)),
    )
    main = element(
        "body", element("h1", title), _overview(source), element("nav", links), body, _footer()
    )
    return Html("<!DOCTYPE html>\n" + element("html", head, main, lang="en") + "\n")


def _footer() -> Html:
    made = time.strftime("%Y-%m-%d %H:%M")
    return element("footer", element("hr"), element("p", f"anharm {__version__}, {made}"))


def _figure(figure: Figure, name: str, caption: str) -> Html:
    return element(
        "figure",
        element("div", figures.as_svg(figure, name), class_="wide"),
        element("figcaption", caption, id=f"{name}-caption"),
    )


def _overview(source: ReportInput) -> Html:
    run = source.run
    failure, converged = run.metadata.get("failure", ""), run.metadata.get("converged", "")
    lines = []
    if source.is_running:
        lines.append(element("p", "The run was going on when this report was made."))
    elif failure:
        lines.append(element("p", f"The run failed: {failure}", class_="bad"))
    elif run.metadata.get("ended"):
        lines.append(element("p", f"The run has ended: {run.metadata['ended']}.", class_="good"))
    else:
        text = "The run was killed: nothing says how it ended. It continues with --resume."
        lines.append(element("p", text, class_="bad"))
    if converged:
        step = run.metadata.get("converged_step", "?")
        lines.append(element("p", f"Training converged at step {step}. {converged}", class_="good"))
    else:
        text = "Training has not converged: the error was still falling, or labels still wanted."
        lines.append(element("p", text, class_="bad"))
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(_created(run)))
    rows = [
        ("begun", created),
        ("steps (evaluations of the model)", f"{run.n_steps:,}"),
        ("trajectories", len(run.traces)),
        ("labels (reference calculations used)", len(run.labels)),
        ("model versions", len(run.models)),
        ("average error with the last model", _last_error(run)),
        ("answers quarantined", len(run.rejected)),
    ]
    return joined([*lines, table(("", ""), rows, " r")])


def _created(run: RunData) -> float:
    return float(run.metadata.get("created", "0"))


def _last_error(run: RunData) -> str:
    averages = run.average_errors()
    return f"{averages[max(averages)]:.4g} eV/Å" if averages else "no step yet"


def _error_section(run: RunData) -> Iterator[Html]:
    if not run.traces:
        yield element("p", "No step has been made yet.")
    settings = run.settings.training
    for number, trace in enumerate(run.traces[:_MOST_TRAJECTORIES]):
        labels = [
            one for one in run.labels
            if one.decision is not None and one.decision.trajectory == trace.trajectory
        ]  # fmt: skip
        yield element("h3", f"trajectory {trace.trajectory}")
        yield _figure(
            figures.error_figure(trace, labels, settings),
            f"error-{number}",
            "Each step's error is the largest standard deviation of any force component, as the "
            f"model in use estimates it. Of the {len(trace.steps):,} steps, each point of the line "
            "is the mean over a bin, and the shade reaches from the smallest to the largest error "
            "in it. The black line is the threshold above which a label is taken. Triangles are "
            "the steps that were labelled, at the error they had, coloured by the rule that chose "
            "them. Look for: the error falls after labels; few triangles come late; and the shade "
            "does not keep growing.",
        )
    if len(run.traces) > _MOST_TRAJECTORIES:
        yield element("p", f"{len(run.traces) - _MOST_TRAJECTORIES} more trajectories: not shown.")


def _learning_section(run: RunData) -> Iterator[Html]:
    if not any(one.label.prediction for one in run.labels):
        yield element("p", "No label has been foretold by a model yet.")
        return
    yield _figure(
        figures.learning_figure(run.labels),
        "learning",
        "The force RMSE of each label, against the reference, of the model that had not yet learnt "
        "it: a true error on a configuration not trained on. Labels that stood out are harder than "
        "the average step; audits (chosen at random) are not. Bars are what the model expected "
        "(rms of its predictive standard deviations). Look for: points settle on a plateau, which "
        "is what the expansion cannot describe, and lie near their bars.",
    )


def _convergence_section(source: ReportInput) -> Iterator[Html]:
    run, curve = source.run, source.curve
    if curve is None and not run.average_errors():
        yield element("p", "No model has driven the dynamics yet.")
        return
    caption = (
        "The error of a step, averaged, against the number of labels. Crosses: over the steps "
        "that each model version drove itself. The first steps start near the ideal crystal, "
        "where errors are small. "
    )
    if curve is not None:
        counts = ", ".join(f"{t.name} {len(t.frames)}" for t in curve.trajectories)
        caption += (
            f"Circles: every version on the same configurations ({counts}), so that versions can "
            "be compared; the shade holds two thirds of the configurations. "
        )
    caption += (
        "No reference calculation is needed for it. Look for: a curve that becomes flat. It "
        "shows what more labels would reduce; what the expansion leaves out is in the learning "
        "curve."
    )
    yield _figure(figures.convergence_figure(run, curve), "convergence", caption)
    if curve is None:
        yield element("p", f"The configurations were not replayed: {source.why_no_curve}.")
        return
    for name, plateau in curve.plateaus.items():
        yield element("p", f"{name}: {plateau.reason}")


def residuals(labels: list[ExplainedLabel]) -> FloatArray:
    """(prediction - label) / predictive standard deviation of all force components, flat."""
    found = [
        ((p.forces - one.label.answer.forces) / p.predictive_force_std).ravel()
        for one in labels
        if (p := one.label.prediction) is not None
        and p.forces is not None
        and p.predictive_force_std is not None
    ]
    z = np.concatenate([np.empty(0), *found])
    return z[np.isfinite(z)]


def _calibration_section(run: RunData) -> Iterator[Html]:
    z = residuals(run.labels)
    if not len(z):
        yield element("p", "No label has been foretold by a model yet.")
        return
    groups = {
        "all": run.labels,
        "audits": [one for one in run.labels if one.rule == "audit"],
        "chosen for their error": [
            one for one in run.labels if one.rule not in ("audit", "initial")
        ],
        "last half": run.labels[len(run.labels) // 2 :],
    }
    rows = []
    for name, labels in groups.items():
        values = residuals(labels)
        if len(values):
            inside = [np.mean(np.abs(values) < width) for width in (0.9945, 1.9600)]
            n = sum(1 for one in labels if one.label.prediction)
            shares = [f"{100 * share:.1f} %" for share in inside]
            rows.append((name, n, *shares, f"{np.sqrt(np.mean(values**2)):.2f}"))
    yield table(("labels", "number", "in 68 %", "in 95 %", "rms z"), rows, " rrrr")
    yield _figure(
        figures.calibration_figure(z),
        "residuals",
        f"z = (predicted force - label) / predicted error, for the {len(z):,} force components of "
        "labels that were not learnt yet. The predicted error holds both what more labels would "
        "reduce and what the expansion leaves out. Look for: the histogram follows the black "
        "line. Wider: errors are underestimated; narrower: overestimated.",
    )
    yield _figure(
        figures.coverage_figure(z),
        "coverage",
        "The share of components inside each predicted interval; circles at 68 % and 95 %. Above "
        "the dotted line, errors are overestimated, which is the safe side.",
    )


def _energy_section(source: ReportInput) -> Iterator[Html]:
    run = source.run
    caption = (
        "Bins of steps: mean, and shade from lowest to highest. Dotted lines: another model "
        "version took over{}. Look for: no jump at the dotted lines beyond the usual fluctuations, "
        "and no drift after the first picoseconds."
    )
    for number, trace in enumerate(run.traces[:_MOST_TRAJECTORIES]):
        yield element("h3", f"potential energy of the model, trajectory {trace.trajectory}")
        yield _figure(
            figures.energy_figure(trace),
            f"energy-{number}",
            caption.format(_undrawn_swaps(trace)),
        )
    for number, properties in enumerate(source.properties[:_MOST_TRAJECTORIES]):
        swapped = _trace_of(properties, run.traces)
        for name in _PROPERTIES:
            if name in properties.columns and len(properties.columns["step"]):
                yield element("h3", f"{name}, from {properties.name}")
                yield _figure(
                    figures.property_figure(properties, name, swapped),
                    f"{name}-{number}",
                    caption.format("; i-PI's own count of steps"),
                )
    if len(source.properties) > _MOST_TRAJECTORIES:
        yield element("p", f"{len(source.properties) - _MOST_TRAJECTORIES} more files: not shown.")
    if not any("temperature" in p.columns for p in source.properties):
        yield element(
            "p",
            "i-PI's temperature is not shown: no property file with step and temperature was found "
            "in the run directory. Add for example <properties filename='out' stride='10'> [ step, "
            "temperature{kelvin} ] </properties> to the <output> of the i-PI input.",
        )


def _trace_of(properties: EngineProperties, traces: Sequence[Trace]) -> Trace | None:
    """The trajectory of a property file: the only one, or that named like its folder or system."""
    if len(traces) == 1:
        return traces[0]
    named = [trace for trace in traces if trace.trajectory in properties.name]
    return max(named, key=lambda trace: len(trace.trajectory), default=None)


def _undrawn_swaps(trace: Trace) -> str:
    n_swaps = len(trace.swaps)
    most = figures.MOST_SWAPS
    return f" (the last {most} of {n_swaps} are drawn)" if n_swaps > most else ""


def _timing_section(run: RunData) -> Iterator[Html]:
    times = run.times
    rows = [
        ("dynamics, including its start", times.dynamics),
        ("waiting for labels", times.waiting),
        ("refits", times.refits),
        ("in all", times.total),
    ]
    yield table(
        ("where the time went", "s", "share"),
        [
            (name, f"{seconds:.1f}", f"{100 * seconds / max(times.total, 1e-9):.0f} %")
            for name, seconds in rows
        ],
        " rr",
    )
    rate = run.n_steps / times.dynamics if times.dynamics > 0 else 0.0
    parts = "" if times.parts == 1 else f" The run was made in {times.parts} parts."
    waiting = (
        "" if run.settings.synchronous
        else " The run was asynchronous: the dynamics did not wait for labels."
    )  # fmt: skip
    yield element(
        "p",
        f"{rate:.3g} steps per second of dynamics. The reference calculations took "
        f"{times.calculations:.1f} s in all, also where several ran at once.{waiting}{parts}",
    )
    if run.labels:
        yield _figure(
            figures.timing_figure(run.labels),
            "timing",
            "Time of each reference calculation, by client (at most 8 are told apart). Look for: "
            "clients that are slower than others, and calculations that take longer and longer.",
        )
