"""`anharm conductivity`: lattice thermal conductivity of a model file, by phono3py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from anharm.errors import ConfigurationError
from anharm.export_command import parse_supercell
from anharm.files import PICTURES, check_output, saving
from anharm.model import load_model
from anharm.model.crystal import FloatArray
from anharm.model.export.conductivity import (
    Conductivity,
    Transport,
    conductivity,
    load_phono3py,
    solve,
)
from anharm.options import check_probability, parse_mesh

COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")
_NEGLIGIBLE = 1e-6  # of the largest component; what symmetry forbids is rounding


@dataclass(frozen=True)
class ConductivityRequest:
    """What `anharm conductivity` is asked for, as the command line says it.

    Attributes
    ----------
    temperatures, mesh : str
        K; three divisions or a length in Angstrom.
    direct, isotopes : bool
        See `Transport`.
    supercell : str, optional
        As for `anharm export`.
    n_samples : int
        Drawn from the posterior; none by default.
    probability : float
        Of the credible interval.
    compare : Path, optional
        A phono3py yaml file of the same crystal.
    """

    temperatures: str = "300"
    mesh: str = "35"
    direct: bool = False
    isotopes: bool = False
    supercell: str | None = None
    n_samples: int = 0
    probability: float = 0.95
    compare: Path | None = None

    def transport(self) -> Transport:
        """The same for phono3py.

        Raises
        ------
        ConfigurationError
            If temperatures or mesh cannot be used.
        """
        try:
            temperatures = np.array([float(t) for t in self.temperatures.replace(",", " ").split()])
        except ValueError:
            temperatures = np.empty(0)
        if not len(temperatures) or not np.all((temperatures > 0) & (temperatures < np.inf)):
            raise ConfigurationError(
                f"--temperatures {self.temperatures!r}: write positive numbers of K, such as "
                '"200 300 600"'
            )
        return Transport(temperatures, parse_mesh(self.mesh), self.direct, self.isotopes)


@dataclass(frozen=True)
class ConductivityResult:
    """The model's conductivity, and that of another source under the same conditions.

    Attributes
    ----------
    own : Conductivity
    other : (n_temperatures, 6) float or None
        W/(m K).
    other_name : str
    """

    own: Conductivity
    other: FloatArray | None
    other_name: str


def find_conductivity(
    model_file: Path, request: ConductivityRequest, output: Path | None = None
) -> ConductivityResult:
    """Conductivity of a model; drawn into `output` if one is given.

    Raises
    ------
    ConfigurationError
        If an option cannot be used.
    ModelError
        See `conductivity` and `load_phono3py`.
    RunFailed
        If the picture cannot be written.
    """
    check_probability(request.probability)
    if request.n_samples < 0 or request.n_samples == 1:
        raise ConfigurationError(
            f"--samples {request.n_samples}: 0 for no interval, or 2 and more for one"
        )
    if output is not None:
        check_output(output, PICTURES)
    transport = request.transport()
    supercell = parse_supercell(request.supercell) if request.supercell is not None else None
    model = load_model(model_file)
    theirs = load_phono3py(request.compare, model) if request.compare is not None else None
    own = conductivity(model, transport, supercell, request.n_samples)
    other = solve(theirs, transport)[0] if theirs is not None else None
    name = request.compare.name if request.compare is not None else ""
    result = ConductivityResult(own, other, name)
    if output is not None:
        with saving(output):
            draw(result, request.probability).savefig(output)
    return result


def as_dict(result: ConductivityResult, probability: float) -> dict[str, Any]:
    """Plain numbers, for --json."""
    own = result.own
    found: dict[str, Any] = {
        "temperatures": own.temperatures.tolist(),
        "components": list(COMPONENTS),
        "kappa": own.kappa.tolist(),
        "mesh": own.mesh.tolist(),
        "lowest_frequency": own.lowest_frequency,
    }
    if len(own.samples):
        found["lower"], found["upper"] = (edge.tolist() for edge in own.interval(probability))
    if result.other is not None:
        found["compared"] = result.other.tolist()
    return found


def print_conductivity(result: ConductivityResult, probability: float, console: Console) -> None:
    """One row per temperature and component that is not zero by symmetry."""
    own = result.own
    mesh = " x ".join(map(str, own.mesh))
    table = Table(title=f"lattice thermal conductivity, W/(m K), mesh {mesh}", title_justify="left")
    for heading in ("T (K)", "", "kappa"):
        table.add_column(heading)
    edges = own.interval(probability) if len(own.samples) else None
    if edges is not None:
        table.add_column(f"{100 * probability:g} % interval")
    if result.other is not None:
        table.add_column(result.other_name)
        table.add_column("difference")
    for row, temperature in enumerate(own.temperatures):
        for component in _present(own.kappa):
            value = own.kappa[row, component]
            words = [f"{temperature:g}", COMPONENTS[component], f"{value:.4g}"]
            if edges is not None:
                words.append(" to ".join(f"{edge[row, component]:.4g}" for edge in edges))
            if result.other is not None:
                other = result.other[row, component]
                words += [f"{other:.4g}", f"{100 * (value / other - 1):+.1f} %"]
            table.add_row(*words)
    console.print(table)
    if not np.isfinite(own.kappa).all():
        console.print(
            "the conductivity is not finite: some phonons on this mesh find no three-phonon "
            "process to scatter by; add --isotopes, which scatters all of them"
        )
    if not own.is_stable:
        console.print(
            f"the lowest frequency on the mesh is imaginary ({own.lowest_frequency:.2f} THz): "
            "phono3py leaves such modes out, and the conductivity means little"
        )


def draw(result: ConductivityResult, probability: float) -> Figure:
    """Conductivity against temperature; points for another source."""
    figure = Figure(figsize=(5.0, 4.0), layout="constrained")
    axes = figure.subplots()
    own = result.own
    for component in _present(own.kappa):
        (line,) = axes.plot(
            own.temperatures, own.kappa[:, component], "o-", ms=3, label=COMPONENTS[component]
        )
        if len(own.samples):
            lower, upper = (edge[:, component] for edge in own.interval(probability))
            axes.fill_between(
                own.temperatures, lower, upper, color=line.get_color(), alpha=0.3, lw=0
            )
        if result.other is not None:
            name = f"{COMPONENTS[component]}, {result.other_name}"
            axes.plot(own.temperatures, result.other[:, component], "x", color="black", label=name)
    axes.set_xlabel("temperature (K)")
    axes.set_ylabel("lattice thermal conductivity (W m$^{-1}$ K$^{-1}$)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    return figure


def _present(kappa: FloatArray) -> list[int]:
    """Components that symmetry does not make zero; the diagonal where that cannot be told."""
    if not np.isfinite(kappa).all():
        return [0, 1, 2]
    sizes = np.abs(kappa).max(axis=0)
    return [int(one) for one in np.flatnonzero(sizes > _NEGLIGIBLE * sizes.max())]
