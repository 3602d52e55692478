"""Pictures of phonons: bands with credible intervals, and the density of states beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anharm.model.crystal import FloatArray
from anharm.model.export.bands import PhononBands
from anharm.model.export.density_of_states import DensityOfStates

_OTHER: dict[str, Any] = {"color": "tab:red", "lw": 0.8, "ls": "--"}


@dataclass(frozen=True)
class OtherPhonons:
    """Frequencies and density of states of another source, at the same places as the model's.

    Attributes
    ----------
    name : str
        For the legend.
    frequencies : (n_points, n_bands) float
        THz.
    densities : (n_frequencies,) float or None
    """

    name: str
    frequencies: FloatArray
    densities: FloatArray | None


def draw(
    bands: PhononBands,
    probability: float,
    density: DensityOfStates | None = None,
    other: OtherPhonons | None = None,
) -> Figure:
    """Lines for the mean model, shades for the credible interval, dashes for another source."""
    figure = Figure(figsize=(6.0 if density is None else 7.5, 4.0), layout="constrained")
    axes, beside = band_axes(figure, density is not None)
    lower, upper = bands.interval(probability)
    for band, frequencies in enumerate(bands.frequencies.T):
        axes.fill_between(
            bands.distances, lower[:, band], upper[:, band], color="tab:blue", alpha=0.3, lw=0
        )
        axes.plot(bands.distances, frequencies, color="black", lw=0.8)
    if other is not None:
        lines = axes.plot(bands.distances, other.frequencies, **_OTHER)
        lines[0].set_label(other.name)
        figure.legend(handles=lines[:1], loc="outside lower center", frameon=False)
    finish_band_axes(axes, bands)
    axes.set_title(f"mean and {100 * probability:g} % credible interval", fontsize="medium")
    if density is not None and beside is not None:
        edges = density.interval(probability)
        beside.fill_betweenx(density.frequencies, *edges, color="tab:blue", alpha=0.3, lw=0)
        beside.plot(density.densities, density.frequencies, color="black", lw=0.8)
        if other is not None and other.densities is not None:
            beside.plot(other.densities, density.frequencies, **_OTHER)
        finish_density_axes(beside)
    return figure


def band_axes(figure: Figure, with_density: bool) -> tuple[Axes, Axes | None]:
    """Axes for the bands, and beside them for the density of states if there is one."""
    if not with_density:
        return figure.subplots(), None
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    return axes, beside


def finish_band_axes(axes: Axes, bands: PhononBands) -> None:
    """Special points, the zero line and the name of the vertical axis."""
    places = sorted({place for place, _ in bands.labels})
    names = ["|".join(n for p, n in bands.labels if p == place) for place in places]
    axes.set_xticks(places, [name.replace("G", "Γ") for name in names])
    for place in places:
        axes.axvline(place, color="grey", lw=0.5)
    axes.axhline(0, color="grey", lw=0.5)
    axes.set_xlim(bands.distances[0], bands.distances[-1])
    axes.set_ylabel("frequency (THz)")


def finish_density_axes(axes: Axes) -> None:
    """The zero line and the name of the horizontal axis."""
    axes.axhline(0, color="grey", lw=0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("states per THz\nand primitive cell")
