"""Second- and third-order force constants for phono3py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from anharm.model.bayesian_model import BayesianModel
from anharm.model.export.force_constants import dense_force_constants, require_orders
from anharm.model.export.phonopy import (
    primitive_matrix,
    require_package,
    supercell_order,
    unit_cell,
    write_cells,
)
from anharm.model.export.supercells import choose_supercell

if TYPE_CHECKING:
    import phono3py


def to_phono3py(model: BayesianModel, supercell: ArrayLike | None = None) -> phono3py.Phono3py:
    """A model's second and third order as a `phono3py.Phono3py`, force constants set.

    Parameters
    ----------
    model : BayesianModel
    supercell : array_like of int, optional
        Three multiples or a 3x3 matrix whose rows are the new vectors (phono3py's own matrix is
        its transpose), for both orders; by default the smallest that both cutoffs fit into.

    Raises
    ------
    ModelError
        If an order is missing, the supercell is too small, or phono3py is not installed.
    """
    require_orders(model, (2, 3), "phono3py")
    phono3py = require_package("phono3py")
    chosen = choose_supercell(model.expansion, (2, 3), supercell)
    phonon = phono3py.Phono3py(
        unit_cell(chosen.crystal),
        supercell_matrix=chosen.matrix.T,
        primitive_matrix=primitive_matrix(chosen.crystal),
    )
    atoms = supercell_order(chosen, phonon.supercell)
    rows = np.asarray(phonon.primitive.p2s_map)
    phonon.fc2 = dense_force_constants(model, 2, chosen, atoms, rows)
    phonon.fc3 = dense_force_constants(model, 3, chosen, atoms, rows)
    return phonon


def write_phono3py(
    model: BayesianModel, directory: Path, supercell: ArrayLike | None = None
) -> list[Path]:
    """Write phono3py_params.yaml, fc2.hdf5, fc3.hdf5, POSCAR and SPOSCAR.

    In that folder, `phono3py.load("phono3py_params.yaml")` reads all of them. The force constants,
    eV/Angstrom^2 and eV/Angstrom^3, are in the compact form: the first atom is in the primitive
    cell.

    Raises
    ------
    ModelError
        See `to_phono3py`.
    OSError
        If a file cannot be written.
    """
    phonon = to_phono3py(model, supercell)
    from phono3py.file_IO import write_fc2_to_hdf5, write_fc3_to_hdf5

    names = ("phono3py_params.yaml", "fc2.hdf5", "fc3.hdf5")
    paths = [directory / name for name in names]
    phonon.save(paths[0])
    p2s_map = phonon.primitive.p2s_map
    write_fc2_to_hdf5(
        phonon.fc2, filename=str(paths[1]), p2s_map=p2s_map, physical_unit="eV/angstrom^2"
    )
    write_fc3_to_hdf5(phonon.fc3, filename=str(paths[2]), p2s_map=p2s_map)
    return [*paths, *write_cells(phonon.unitcell, phonon.supercell, directory)]
