"""Force constants of a model in the formats of phonopy, phono3py and ShengBTE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.export.force_constants import dense_force_constants, ordered_clusters
from anharm.model.export.phono3py import to_phono3py, write_phono3py
from anharm.model.export.phonopy import to_phonopy, write_phonopy
from anharm.model.export.shengbte import write_shengbte

__all__ = [
    "FORMATS",
    "dense_force_constants",
    "export_model",
    "ordered_clusters",
    "to_phono3py",
    "to_phonopy",
    "write_phono3py",
    "write_phonopy",
    "write_shengbte",
]

FORMATS: dict[str, Callable[[BayesianModel, Path, ArrayLike | None], list[Path]]] = {
    "phonopy": write_phonopy,
    "phono3py": write_phono3py,
    "shengbte": write_shengbte,
}


def export_model(
    model: BayesianModel, file_format: str, directory: Path, supercell: ArrayLike | None = None
) -> list[Path]:
    """Write the force constants of a model for another program.

    Parameters
    ----------
    model : BayesianModel
    file_format : str
        A key of `FORMATS`.
    directory : Path
        Folder for the files; made if it does not exist.
    supercell : array_like of int, optional
        Three multiples or a 3x3 matrix whose rows are the new vectors in units of the model's
        lattice vectors; by default the smallest that the cutoffs fit into.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ModelError
        If the format is unknown, the model lacks an order, its force constants do not fit into
        the supercell, a package is missing, or a file cannot be written.
    """
    if file_format not in FORMATS:
        raise ModelError(f"unknown format {file_format!r}; choose one of {', '.join(FORMATS)}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return FORMATS[file_format](model, directory, supercell)
    except OSError as error:
        raise ModelError(f"cannot write into {directory}: {error.strerror or error}") from error
