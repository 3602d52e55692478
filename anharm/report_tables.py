"""The tables of a report: labels and why each was taken, failures, configuration."""

from __future__ import annotations

import time

from anharm.html import Html, element, joined, table
from anharm.server.run_data import ExplainedLabel, RunData

MOST_ROWS = 1000
_MOST_EVENTS = 300


def label_table(run: RunData) -> Html:
    """Every label with the decision that asked for it."""
    if not run.labels:
        return element("p", "There is no label yet.")
    head = (
        "label", "trajectory", "step", "why", "error", "threshold", "average", "model",
        "RMSE before", "seconds", "tries", "client",
    )  # fmt: skip
    shown = run.labels[-MOST_ROWS:]
    note = (
        "Errors are in eV/Å. Why: the rule that asked for the label; error: that of the step with "
        "the model given; threshold: what the rule compared it with; average: over the window of "
        "the trajectory; RMSE before: of the forces, before the label was learnt."
    )
    if len(shown) < len(run.labels):
        note += f" The last {len(shown)} of {len(run.labels)} labels are shown."
    kinds = " ".ljust(2) + "r rrrrrrr "
    return joined([table(head, map(_label_row, shown), kinds), element("p", note)])


def _label_row(one: ExplainedLabel) -> tuple[object, ...]:
    label, decision = one.label, one.decision
    request, prediction = label.request, label.prediction
    return (
        one.number,
        request.trajectory or "",
        "" if request.step is None else request.step,
        one.rule if decision is not None else request.reason,
        _number(decision and decision.value),
        _number(decision and decision.threshold),
        _number(decision and decision.mean),
        "" if decision is None else decision.model_version,
        _number(prediction and prediction.force_rmse),
        f"{label.answer.seconds:.2f}",
        request.attempts,
        label.answer.client,
    )


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else ""


def failures(run: RunData) -> Html:
    """Warnings, quarantined answers, requests without an answer, labels beyond the budget."""
    parts: list[Html] = []
    if run.rejected:
        rows = [
            (one.request.id, one.request.step, one.answer.client, "; ".join(one.reasons))
            for one in run.rejected[-MOST_ROWS:]
        ]
        parts += [
            element("h3", "Quarantined answers"),
            element("p", "Answers of the reference that failed their checks; none was learnt."),
            table(("request", "step", "client", "why"), rows),
        ]
    if run.open_requests:
        requests = [
            (r.id, r.step, r.reason, r.state, r.attempts, r.client)
            for r in run.open_requests[-MOST_ROWS:]
        ]
        parts += [
            element("h3", "Requests without an accepted answer"),
            table(("request", "step", "why", "state", "tries", "client"), requests),
        ]
    if run.refused:
        text = f"{len(run.refused)} labels were wanted beyond the budget."
        parts.append(element("p", text))
    events = [e for e in run.events if e.level in ("warning", "error")][-_MOST_EVENTS:]
    if events:
        lines = [(_clock(event.time), event.level, event.text) for event in events]
        parts += [element("h3", "Warnings and errors"), table(("time", "level", "text"), lines)]
    return joined(parts) if parts else element("p", "None.")


def provenance(run: RunData) -> Html:
    """run.toml as it was, and the versions of the software."""
    versions = sorted(
        (key.removeprefix("version."), value)
        for key, value in run.metadata.items()
        if key.startswith("version.")
    )
    others = [(_clock(e.time), e.text) for e in run.events if e.level == "info"][-_MOST_EVENTS:]
    return joined(
        [
            element("h3", "run.toml"),
            element("pre", run.settings.text),
            element("h3", "Software"),
            table(("package", "version"), versions),
            element("h3", "Log of the run"),
            table(("time", "text"), others),
        ]
    )


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
