"""The table and the figure of the learning economy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

NEAR = 1.1  # of the plateau
SHOWN = (1, 2, 3, 4, 6, 8, 12, 20)
GOLD = "gold standard"


def plateau(results: dict[str, Any]) -> float:
    """Error of the gold standard with all its labels, averaged over the seeds (eV/Angstrom)."""
    return float(np.mean([one["curve"][-1][1] for one in results[GOLD].values()]))


def labels_needed(curve: list[list[float]], limit: float) -> int | None:
    """Labels from which on the error stays below a limit."""
    needed = None
    for number, error in curve:
        if error > limit:
            needed = None
        elif needed is None:
            needed = int(number)
    return needed


def table(materials: dict[str, dict[str, Any]], ways: Sequence[str]) -> str:
    """Markdown: median errors by number of labels, labels needed, and convergence."""
    lines = []
    for name, results in materials.items():
        test, level = results["test"], plateau(results)
        lines += [
            f"\n{name}: rms force {test['rms_force']:.3f} eV/A at {test['temperature']:.0f} K, "
            f"plateau of the gold standard {level:.4f} eV/A\n",
            "| labels from | seeds | "
            + " | ".join(map(str, SHOWN))
            + " | needed | declared | 68, 95 % |",
            "|---" * (len(SHOWN) + 5) + "|",
        ]
        for way in ways:
            if seeds := results.get(way):
                lines.append(_line(way, list(seeds.values()), level))
    return "\n".join(lines)


def _line(way: str, seeds: list[dict[str, Any]], level: float) -> str:
    cells = []
    for number in SHOWN:
        errors = [dict(map(tuple, one["curve"])).get(number) for one in seeds]
        known = [error for error in errors if error is not None]
        cells.append(f"{np.median(known):.3f}" if known else "")
    needed = [labels_needed(one["curve"], NEAR * level) for one in seeds]
    text = ", ".join("-" if one is None else str(one) for one in needed)
    declared = ", ".join(
        f"{c['labels']}: {c['rmse'] / level - 1:+.0%}"
        for one in seeds
        if (c := one.get("converged"))
    )
    unstable = ", ".join(str(one["steps"]) for one in seeds if one.get("unstable"))
    if unstable:
        declared += f" unstable at step {unstable}"
    honest = [one["coverage"] for one in seeds if "coverage" in one]
    covered = ", ".join(f"{np.median(part):.2f}" for part in zip(*honest, strict=True))
    return f"| {way} | {len(seeds)} | {' | '.join(cells)} | {text} | {declared} | {covered} |"


def draw(materials: dict[str, dict[str, Any]], ways: Sequence[str], path: Path) -> None:
    """One panel per material: the median over the seeds, and all seeds in a fainter line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(materials), figsize=(4 * len(materials), 3.8), squeeze=False, layout="constrained"
    )
    for panel, (name, results) in zip(panels[0], materials.items(), strict=True):
        for index, way in enumerate(ways):
            curves = [np.array(one["curve"]) for one in results.get(way, {}).values()]
            for number, curve in enumerate(curves):
                panel.plot(
                    *curve.T,
                    color=f"C{index}",
                    marker="o",
                    markersize=2.5,
                    linewidth=0.9,
                    alpha=0.8,
                    label=way if number == 0 else None,
                )
        panel.axhspan(plateau(results), NEAR * plateau(results), color="0.85", zorder=0)
        panel.set(title=name, xscale="log", yscale="log", xlabel="reference calculations")
        panel.set_ylim(0.9 * plateau(results), 12 * plateau(results))
    panels[0][0].set_ylabel("force RMSE (eV/Å)")
    lines = {line.get_label(): line for panel in panels[0] for line in panel.get_lines()}
    named = {way: lines[way] for way in ways if way in lines}
    figure.legend(named.values(), named.keys(), fontsize=8, ncols=5, loc="outside lower center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
