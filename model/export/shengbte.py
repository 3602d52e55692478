"""Second- to fourth-order force constants for ShengBTE and its extension FourPhonon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import Crystal, FloatArray, IntArray, Supercell
from anharm.model.export.force_constants import (
    dense_force_constants,
    ordered_clusters,
    require_orders,
)
from anharm.model.export.phonopy import write_force_constants_text
from anharm.model.export.supercells import choose_supercell, multiples_of

_SPARSE_FILES = {3: "FORCE_CONSTANTS_3RD", 4: "FORCE_CONSTANTS_4TH"}


def write_shengbte(
    model: BayesianModel, directory: Path, supercell: ArrayLike | None = None
) -> list[Path]:
    """Write CONTROL, FORCE_CONSTANTS_2ND, _3RD, and _4TH if the model holds order 4.

    Parameters
    ----------
    model : BayesianModel
    directory : Path
    supercell : array_like of int, optional
        Three multiples, for the second order only; by default the smallest that its cutoff fits
        into. Higher orders are written for the infinite crystal.

    Returns
    -------
    list of Path

    Raises
    ------
    ModelError
        If order 2 or 3 is missing, or the supercell is too small or not three multiples.
    OSError
        If a file cannot be written.
    """
    require_orders(model, (2, 3), "ShengBTE")
    whole = model.expansion.second_order_supercell
    if supercell is None and whole is not None:
        supercell = multiples_of(whole)
    chosen = choose_supercell(model.expansion, (2,), supercell)
    multiples = np.diag(chosen.matrix)
    if not np.array_equal(chosen.matrix, np.diag(multiples)) or multiples.min() < 1:
        raise ModelError(
            f"ShengBTE knows no supercell like {chosen.matrix.tolist()}: give three positive "
            "multiples of the lattice vectors"
        )
    control, second = directory / "CONTROL", directory / "FORCE_CONSTANTS_2ND"
    control.write_text(_control(chosen.crystal, multiples))
    atoms = _order_of_atoms(chosen, multiples)
    write_force_constants_text(
        dense_force_constants(model, 2, chosen, atoms, np.arange(chosen.n_atoms)), second
    )
    paths = [control, second]
    for order, name in _SPARSE_FILES.items():
        if order in model.expansion.orders:
            paths.append(directory / name)
            _write_sparse(*ordered_clusters(model, order), chosen.crystal, paths[-1])
    return paths


def _order_of_atoms(supercell: Supercell, multiples: IntArray) -> IntArray:
    """The supercell atom at each place of ShengBTE's order: first axis fastest, atoms slowest."""
    third, second, first = np.meshgrid(*map(np.arange, multiples[::-1]), indexing="ij")
    cells = np.stack([first, second, third], axis=-1).reshape(-1, 3)
    starts = np.arange(supercell.crystal.n_sites) * supercell.n_cells
    return (starts[:, None] + supercell.cell_index(cells)).ravel()


def _write_sparse(clusters: IntArray, tensors: FloatArray, crystal: Crystal, path: Path) -> None:
    """One block per tuple of atoms: its number, lattice vectors, atoms from one, components."""
    order = clusters.shape[1]
    ranks = np.lexsort(clusters.reshape(len(clusters), -1).T[::-1])
    axes = [" ".join(str(axis + 1) for axis in index) for index in np.ndindex(*[3] * order)]
    with path.open("w") as file:
        file.write(f"{len(clusters)}\n")
        for number, rank in enumerate(ranks, start=1):
            file.write(f"\n{number}\n")
            for vector in clusters[rank, 1:, :3] @ crystal.lattice:
                file.write("{:18.12f} {:18.12f} {:18.12f}\n".format(*vector))
            file.write(" ".join(str(site + 1) for site in clusters[rank, :, 3]) + "\n")
            for label, value in zip(axes, tensors[rank].ravel(), strict=True):
                file.write(f"{label} {value:24.16e}\n")


def _control(crystal: Crystal, multiples: IntArray) -> str:
    """A CONTROL file that says what the force constants belong to; the rest is the user's."""
    symbols = list(dict.fromkeys(crystal.symbols))
    numbers = lambda values: " ".join(f"{value:.12f}" for value in values)  # noqa: E731
    lines = [
        "&allocations",
        f"  nelements={len(symbols)}, natoms={crystal.n_sites}, ngrid(:)=11 11 11",
        "&end",
        "&crystal",
        "  lfactor=0.1,",
        *(f"  lattvec(:,{i})={numbers(v)}," for i, v in enumerate(crystal.lattice, start=1)),
        "  elements=" + " ".join(f'"{symbol}"' for symbol in symbols) + ",",
        "  types=" + " ".join(str(symbols.index(s) + 1) for s in crystal.symbols) + ",",
        *(
            f"  positions(:,{i})={numbers(p)},"
            for i, p in enumerate(crystal.fractional_positions, start=1)
        ),
        "  scell(:)=" + " ".join(map(str, multiples)),
        "&end",
        "&parameters",
        "  T=300., scalebroad=1.0",
        "&end",
        "&flags",
        "  nonanalytic=.false.",
        "&end",
    ]
    return "\n".join(lines) + "\n"
