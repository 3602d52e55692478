"""Force constants as other programs want them: every order of the atoms, or dense arrays."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, IntArray, Supercell

_ZERO = 1e-14  # blocks below this fraction of the largest force constant are rounding noise


def require_orders(model: BayesianModel, orders: tuple[int, ...], program: str) -> None:
    """Refuse a model that lacks an order that a format needs.

    Raises
    ------
    ModelError
        Naming the missing order.
    """
    for order in orders:
        if order not in model.expansion.orders:
            held = ", ".join(map(str, model.expansion.orders))
            raise ModelError(
                f"the model has no force constants of order {order} (it holds order {held}), "
                f"which {program} needs; fit a model whose expansion.cutoffs name order {order}"
            )


def ordered_clusters(model: BayesianModel, order: int) -> tuple[IntArray, FloatArray]:
    """Force constants of all tuples of atoms that begin in the home cell, in every order.

    Parameters
    ----------
    model : BayesianModel
    order : int
        An order of the expansion.

    Returns
    -------
    clusters : (n, order, 4) int
        Atoms (cell, cell, cell, site); the first is in the home cell. No tuple occurs twice.
    tensors : (n, 3, ..., 3) float
        eV/Angstrom^order, index k of atom k; blocks of zeros are left out.
    """
    clusters, tensors = model.force_constants(order)
    largest = np.abs(tensors).reshape(len(tensors), -1).max(axis=1, initial=0.0)
    kept = largest > _ZERO * largest.max(initial=0.0)
    clusters, tensors = clusters[kept], tensors[kept]
    same = np.all(clusters[:, :, None] == clusters[:, None], axis=-1)
    arranged, blocks = [], []
    for permutation in permutations(range(order)):
        # Of the permutations that only exchange equal atoms, the ascending one is taken.
        new = np.ones(len(clusters), dtype=bool)
        for earlier, later in combinations(permutation, 2):
            if earlier > later:
                new &= ~same[:, earlier, later]
        part = clusters[new][:, list(permutation)]
        part[..., :3] -= part[:, :1, :3].copy()
        arranged.append(part)
        blocks.append(tensors[new].transpose(0, *(1 + axis for axis in permutation)))
    return np.concatenate(arranged), np.concatenate(blocks)


def dense_force_constants(
    model: BayesianModel, order: int, supercell: Supercell, atoms: IntArray, rows: IntArray
) -> FloatArray:
    """Force constants of a supercell as one array, in another program's order of the atoms.

    Parameters
    ----------
    model : BayesianModel
    order : int
    supercell : Supercell
        In which no cluster of this order meets its own image, but for shared pairs.
    atoms : (n_atoms,) int
        The supercell atom that stands at each place of the other order.
    rows : (n_rows,) int
        Places that the first index runs over: all atoms, or those of one primitive cell.

    Returns
    -------
    (n_rows, n_atoms, ..., 3, ..., 3) float
        eV/Angstrom^order; `order` atom indices, then as many Cartesian ones.
    """
    clusters, tensors = ordered_clusters(model, order)
    place = np.argsort(atoms)
    dense = np.zeros((len(rows), *[supercell.n_atoms] * (order - 1), *[3] * order))
    for index, row in enumerate(rows):
        site, cell = divmod(int(atoms[row]), supercell.n_cells)
        own = clusters[:, 0, 3] == site
        others = clusters[own, 1:]
        cells = supercell.cell_index(others[..., :3] + supercell.cells[cell])
        places = place[others[..., 3] * supercell.n_cells + cells]
        # Images of an atom that are equally far share its force constants.
        np.add.at(dense, (index, *places.T), tensors[own])
    return dense
