"""Phonons of the same crystal that phonopy made elsewhere, such as from finite displacements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anharm.errors import ModelError
from anharm.model.crystal import FloatArray, IntArray, Supercell
from anharm.model.export.phonopy import require_package, supercell_order
from anharm.model.export.supercells import SAME_LATTICE, same_primitive_cell
from anharm.model.labels import Label

_FILES_BESIDE = (
    ("force_constants_filename", "force_constants.hdf5"),
    ("force_constants_filename", "FORCE_CONSTANTS"),
    ("force_sets_filename", "FORCE_SETS"),
)


def load_phonopy(path: Path) -> Any:
    """Read a phonopy yaml file, with FORCE_SETS or force constants in it or beside it.

    Returns
    -------
    phonopy.Phonopy
        With force constants.

    Raises
    ------
    ModelError
        If there is no such file, phonopy cannot read it, or it leads to no force constants.
    """
    phonopy = require_package("phonopy")
    if not path.is_file():
        raise ModelError(f"the phonopy file {path} does not exist")
    from phonopy.interface.phonopy_yaml import PhonopyYaml

    try:
        content = PhonopyYaml().read(path)
        beside = {} if _has_forces(content) else _files_beside(path)
        # phonopy would otherwise look for BORN in the working directory
        phonon = phonopy.load(
            str(path), is_nac=content.nac_params is not None, log_level=0, **beside
        )
    except ModelError:
        raise
    except Exception as error:  # whatever its parsers raise
        raise ModelError(
            f"phonopy cannot read {path}: {type(error).__name__}: {error}; give a file that "
            'phonopy wrote, such as with phonon.save("phonopy_params.yaml")'
        ) from error
    if phonon.force_constants is None:
        raise ModelError(f"phonopy made no force constants from {path}")
    return phonon


def _has_forces(content: Any) -> bool:
    dataset = content.dataset or {}
    displaced = dataset.get("first_atoms", [])
    return (
        content.force_constants is not None
        or "forces" in dataset
        or (len(displaced) > 0 and all("forces" in one for one in displaced))
    )


def _files_beside(path: Path) -> dict[str, str]:
    for keyword, name in _FILES_BESIDE:
        if (path.parent / name).is_file():
            return {keyword: str(path.parent / name)}
    names = ", ".join(name for _, name in _FILES_BESIDE)
    raise ModelError(
        f"{path} holds neither forces nor force constants, and beside it is none of {names}"
    )


def translate_wave_vectors(wave_vectors: FloatArray, ours: Any, other: Any) -> FloatArray:
    """Wave vectors in units of the reciprocal vectors of another's primitive cell.

    Parameters
    ----------
    wave_vectors : (n, 3) float
        In units of the reciprocal vectors of our primitive cell.
    ours, other : phonopy.Phonopy

    Raises
    ------
    ModelError
        If it is another crystal, or the same one in another orientation.
    """
    matrix = same_primitive_cell(ours.primitive, other.primitive, "the phonons to compare with")
    # a = M b for the rows, so a component q.a of the model's is M times theirs.
    translated: FloatArray = wave_vectors @ np.linalg.inv(matrix).T
    return translated


class OtherHarmonicForces:
    """Harmonic forces from the force constants of phonopy, for supercells of the same size.

    Parameters
    ----------
    other : phonopy.Phonopy
        Of the model's crystal, with force constants.
    """

    def __init__(self, other: Any) -> None:
        from phonopy.harmonic.force_constants import compact_fc_to_full_fc

        self._cell = other.supercell
        found = np.asarray(other.force_constants)
        if found.shape[0] != found.shape[1]:
            found = np.asarray(compact_fc_to_full_fc(other.primitive, found))
        self._force_constants = found.transpose(0, 2, 1, 3).reshape(3 * len(found), -1)
        self._orders: dict[bytes, IntArray] = {}

    def __call__(self, label: Label) -> FloatArray:
        """(3 n_atoms,) forces, eV/Angstrom, in the supercell's order.

        Raises
        ------
        ModelError
            If the supercell is not that of the force constants.
        """
        order = self._order_in(label.strained_sum.supercell)
        forces = np.empty_like(label.displacements)
        theirs = self._force_constants @ label.displacements[order].ravel()
        forces[order] = -theirs.reshape(-1, 3)
        return forces.ravel()

    def _order_in(self, supercell: Supercell) -> IntArray:
        """The supercell atom that each of phonopy's is."""
        key = supercell.matrix.tobytes()
        if key not in self._orders:
            ratios = supercell.lattice @ np.linalg.inv(np.asarray(self._cell.cell))
            if (
                np.abs(ratios - np.round(ratios)).max() > SAME_LATTICE
                or round(abs(np.linalg.det(ratios))) != 1
            ):
                raise ModelError(
                    "the harmonic force constants are those of a supercell of "
                    f"{np.round(self._cell.cell, 3).tolist()} Angstrom, the configurations have "
                    f"{np.round(supercell.lattice, 3).tolist()}; make them for the same supercell"
                )
            self._orders[key] = supercell_order(supercell, self._cell)
        return self._orders[key]
