"""The figures of a report: matplotlib's SVG, small whatever the length of the run."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from scipy.special import erf

from anharm.configuration import TrainingSection
from anharm.convergence_command import ConvergenceCurve, plot_convergence
from anharm.html import Html
from anharm.model.crystal import FloatArray
from anharm.server.beads import errors_of_steps
from anharm.server.engine_properties import EngineProperties
from anharm.server.envelope import Envelope, envelope, trailing_mean
from anharm.server.run_data import ExplainedLabel, RunData, Trace

BINS = 500
MOST_SWAPS = 60
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in the reader's own fonts
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_COLOURS = {
    "initial": "tab:gray",
    "audit": "tab:green",
    "trajectory-average": "tab:red",
    "maximum": "tab:purple",
}
_OTHER = "tab:orange"


def as_svg(figure: Figure, name: str) -> Html:
    """A figure as an inline element, whose internal names no other figure has."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    return Html(text.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-caption" ', 1))


def error_figure(
    trace: Trace, labels: Sequence[ExplainedLabel], settings: TrainingSection
) -> Figure:
    """Error and threshold along one trajectory, with its labels."""
    figure, axes = _figure(3.6)
    _draw_envelope(axes, envelope(trace.steps, trace.error, BINS), "tab:blue", "error of a step")
    if settings.rule == "trajectory-average":
        errors = errors_of_steps(
            trace.error, len(trace.error), trace.beads, settings.bead_reduction
        )
        threshold = settings.factor * trailing_mean(errors, settings.window)
        threshold[: settings.minimum_interval] = np.nan
        threshold = np.repeat(threshold, trace.beads)[: len(trace.error)]
        thin = envelope(trace.steps, threshold, BINS)
        axes.plot(thin.position, thin.mean, color="black", lw=1, label="threshold")
    else:
        known = [
            (one.decision.step, one.decision.threshold)
            for one in labels
            if one.decision is not None and one.decision.threshold is not None
        ]
        if known:
            axes.plot(*np.transpose(known), "_", color="black", label="threshold at the labels")
    if settings.maximum is not None:
        axes.axhline(settings.maximum, color="tab:purple", ls=":", label="maximum")
    for rule in dict.fromkeys(one.rule for one in labels):
        marks = [(d.step, d.value) for one in labels if (d := one.decision) and one.rule == rule]
        if marks:
            colour = _COLOURS.get(rule, _OTHER)
            axes.plot(*np.transpose(marks), "v", ms=5, color=colour, label=f"label: {rule}")
    positive = trace.error[trace.error > 0]
    if len(positive) and positive.max() > 20 * np.median(positive):
        axes.set_yscale("log")
    _count_steps(axes)
    axes.set_xlabel("step" if trace.beads == 1 else f"evaluation ({trace.beads} beads per step)")
    axes.set_ylabel("largest force error (eV/Å)")
    axes.legend(ncols=3, fontsize="small", loc="upper right")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (3 if axes.get_yscale() == "log" else 1.25))  # room for the legend
    return figure


def learning_figure(labels: Sequence[ExplainedLabel]) -> Figure:
    """Force RMSE of every label before it was learnt."""
    figure, axes = _figure(3.0)
    for rule in dict.fromkeys(one.rule for one in labels):
        points = [
            (one.number, p.force_rmse)
            for one in labels
            if one.rule == rule and (p := one.label.prediction) is not None
        ]
        if points:
            axes.plot(
                *np.transpose(points), "o", ms=4, color=_COLOURS.get(rule, _OTHER), label=rule
            )
    expected = [
        (one.number, np.sqrt(np.mean(np.square(p.predictive_force_std))))
        for one in labels
        if (p := one.label.prediction) is not None and p.predictive_force_std is not None
    ]
    if expected:
        axes.plot(*np.transpose(expected), "k_", ms=9, label="expected by the model")
    axes.set_yscale("log")
    axes.set_xlabel("label")
    axes.set_ylabel("force RMSE before learning (eV/Å)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small", ncols=3)
    return figure


def convergence_figure(run: RunData, curve: ConvergenceCurve | None) -> Figure:
    """Average error of every model version, replayed if possible and while it drove."""
    figure, axes = _figure(3.2)
    if curve is not None:
        plot_convergence(axes, curve)
        return figure
    averages = run.average_errors()
    points = [(len(m.labels), averages[m.version]) for m in run.models if m.version in averages]
    axes.plot(*np.transpose(points), "k+", label="while it drove the dynamics")
    axes.set_yscale("log")
    axes.set_xlabel("labels")
    axes.set_ylabel("error of a step, averaged (eV/Å)")
    axes.legend(fontsize="small")
    return figure


def calibration_figure(z: FloatArray) -> Figure:
    """Distribution of the residuals in units of the predicted errors."""
    figure, axes = _figure(3.0)
    edges = np.linspace(-5, 5, 51)
    density, _ = np.histogram(z, edges)
    density = density / (len(z) * np.diff(edges))
    axes.stairs(density, edges, fill=True, color="tab:blue", alpha=0.5, label="labels")
    axes.plot(edges, np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi), "k-", lw=1, label="normal")
    axes.set_xlabel("(predicted force - label) / predicted error")
    axes.set_ylabel("density")
    axes.legend(fontsize="small")
    return figure


def coverage_figure(z: FloatArray) -> Figure:
    """Share of force components inside each predicted interval."""
    figure, axes = _figure(3.0)
    widths = np.linspace(0, 4, 81)
    wanted = erf(widths / np.sqrt(2))
    inside = np.searchsorted(np.sort(np.abs(z)), widths, side="right") / len(z)
    axes.plot(wanted, inside, color="tab:blue", label="labels")
    axes.plot([0, 1], [0, 1], "k:", lw=1, label="ideal")
    axes.plot([0.68, 0.95], np.interp([0.68, 0.95], wanted, inside), "o", color="tab:blue", ms=4)
    axes.set_xlabel("probability of the predicted interval")
    axes.set_ylabel("share of labels inside")
    axes.legend(fontsize="small")
    return figure


def energy_figure(trace: Trace) -> Figure:
    """The model's energy at every step, with the model swaps."""
    figure, axes = _figure(2.6)
    _draw_envelope(axes, envelope(trace.steps, trace.energy, BINS), "tab:orange", "")
    _draw_swaps(axes, trace, 1.0)
    _count_steps(axes)
    axes.set_xlabel("step")
    axes.set_ylabel("potential energy (eV)")
    return figure


def property_figure(properties: EngineProperties, name: str, trace: Trace | None) -> Figure:
    """A property that i-PI wrote, with the model swaps on its own count of steps."""
    figure, axes = _figure(2.6)
    steps = properties.columns["step"]
    _draw_envelope(axes, envelope(steps, properties.columns[name], BINS), "tab:red", "")
    if trace is not None and len(steps) and steps[-1] > 0:
        _draw_swaps(axes, trace, _evaluations_per_step(len(trace.steps), steps[-1] + 1))
    _count_steps(axes)
    axes.set_xlabel("i-PI's step")
    unit = properties.units[name] or "i-PI's atomic units"
    axes.set_ylabel(f"{name} ({unit})")
    return figure


def timing_figure(labels: Sequence[ExplainedLabel]) -> Figure:
    """Seconds of every reference calculation, by client."""
    figure, axes = _figure(2.6)
    clients = list(dict.fromkeys(one.label.answer.client for one in labels))
    for client in clients[:8]:
        points = [
            (one.number, one.label.answer.seconds)
            for one in labels
            if one.label.answer.client == client
        ]
        axes.plot(*np.transpose(points), "o", ms=4, label=client)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("label")
    axes.set_ylabel("calculation (s)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")
    return figure


def _evaluations_per_step(n_evaluations: int, n_steps: float) -> float:
    """Beads and systems make several evaluations per step of i-PI."""
    ratio = n_evaluations / n_steps
    return round(ratio) if ratio > 1.5 else 1.0


def _count_steps(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _figure(height: float) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        axes: Axes = figure.subplots()
    return figure, axes


def _draw_envelope(axes: Axes, thin: Envelope, colour: str, label: str) -> None:
    axes.fill_between(thin.position, thin.lowest, thin.highest, color=colour, alpha=0.25, lw=0)
    axes.plot(thin.position, thin.mean, color=colour, lw=0.8, label=label)


def _draw_swaps(axes: Axes, trace: Trace, evaluations_per_step: float) -> None:
    for step, _ in trace.swaps[-MOST_SWAPS:]:
        place = step / evaluations_per_step
        axes.axvline(place, color="black", lw=0.5, ls=":", alpha=0.5, zorder=0)
