"""The picture of `anharm anharmonicity`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anharm.model.anharmonicity import Anharmonicity

_N_BINS = 60
_RANGE = 3.5  # standard deviations of the forces


def draw(results: Mapping[str, Anharmonicity]) -> Figure:
    """What remains after each order, and per file the distribution of F - F2 against F."""
    figure = Figure(figsize=(3.4 + 2.6 * len(results), 3.6), layout="constrained")
    first, *others = np.atleast_1d(
        figure.subplots(1, 1 + len(results), width_ratios=[1.3] + [1] * len(results))
    )
    for name, found in results.items():
        _draw_orders(first, Path(name).stem, found)
    first.set_xlabel("order n")
    first.set_ylabel("rms relative to rms(F)")
    first.set_yscale("log")
    first.legend(fontsize="small", title="left after n (—), share of n (·)", title_fontsize="small")
    for axes, (name, found) in zip(others, results.items(), strict=True):
        _draw_distribution(axes, Path(name).stem, found)
    return figure


def _draw_orders(axes: Axes, name: str, found: Anharmonicity) -> None:
    orders = [n for n in found.contributions if n >= 2]
    shares = axes.plot(orders, [found.contributions[n] for n in orders], "o:", ms=3)
    if found.remaining:
        colour = shares[0].get_color()
        axes.plot(*zip(*found.remaining.items(), strict=True), "s-", ms=4, color=colour, label=name)
    else:
        shares[0].set_label(name)
    axes.set_xticks(orders)


def _draw_distribution(axes: Axes, name: str, found: Anharmonicity) -> None:
    """As Fig. 3 of Knoop et al.: both axes in units of the standard deviation of F."""
    limits = [[-_RANGE, _RANGE], [-_RANGE / 2, _RANGE / 2]]
    axes.hist2d(
        found.forces / found.rms_force,
        found.anharmonic / found.rms_force,
        bins=_N_BINS,
        range=limits,
        cmap="Blues",
        rasterized=True,
    )
    sigma = found.model if found.reference is None else found.reference
    axes.set_title(f"{name}\nσ = {sigma.value:.3f}", fontsize="medium")
    axes.set_xlabel("F / rms(F)")
    axes.set_ylabel("(F - F2) / rms(F)")
