"""Model files: one self-describing HDF5 file per model version.

The file holds the crystal, the compiled expansion (the basis that gives the parameters their
meaning), the posterior and its hyperparameters, and the provenance.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.sparse import csr_array

from anharm._version import __version__
from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.consistency import is_consistent
from anharm.model.crystal import Crystal
from anharm.model.deformation import MAXIMUM_STRAIN
from anharm.model.expansion import Expansion
from anharm.model.hdf5_limits import check_limits, small_list
from anharm.model.noise import NoiseModel
from anharm.model.program import MonomialTable
from anharm.model.regression import Posterior

FORMAT = "anharm model"
FORMAT_VERSION = 3
_BLOCK = 512  # bytes; HDF5 leaves a user block of this size alone, and finds its content after it
_TITLE = "anharm model file"
_UNREADABLE = (
    OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError,
    MemoryError,
)  # fmt: skip


def save_model(model: BayesianModel, path: Path) -> str:
    """Write a model file durably: temporary name, synced, renamed.

    Returns
    -------
    str
        SHA-256 of the file's content.

    Raises
    ------
    ModelError
        If the file cannot be written.
    """
    content = model_to_bytes(model)
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ModelError(f"cannot write the model file {path}: {error.strerror}") from error
    return hashlib.sha256(content).hexdigest()


def load_model(path: Path) -> BayesianModel:
    """Read a model file.

    Raises
    ------
    ModelError
        If the file is missing, is no model file, or is of another format version.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror}") from error
    return model_from_bytes(content, str(path))


def model_to_bytes(model: BayesianModel) -> bytes:
    """The content of a model file."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=_BLOCK) as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["anharm_version"] = __version__
        file.attrs["units"] = "Angstrom, eV"
        file.attrs["version"] = model.version
        file.attrs["n_labels"] = model.n_labels
        file.attrs["largest_strain"] = model.largest_strain
        file.attrs["energy_per_cell"] = model.energy_per_cell
        file["virial_per_cell"] = model.virial_per_cell
        file["constants_factor"] = model.constants_factor
        _write_expansion(file.create_group("expansion"), model.expansion)
        _write_posterior(file.create_group("posterior"), model.posterior)
        for kind, noise in model.noise.items():
            part = file.create_group(f"noise/{kind}")
            part["coefficients"] = noise.coefficients
            part.attrs["average"] = noise.average
        provenance = file.create_group("provenance")
        for key, value in model.provenance.items():
            provenance.attrs[key] = value
        check_limits(file, "the model that would be written")
    hdf5 = buffer.getvalue()[_BLOCK:]
    return _sealed(hdf5) + hdf5


def model_from_bytes(content: bytes, source: str) -> BayesianModel:
    """A model from the content of a model file; `source` names it in messages.

    Raises
    ------
    ModelError
        If the content is no model file, is damaged, or is of another format version.
    """
    try:
        with h5py.File(io.BytesIO(_unseal(content, source)), "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ModelError(f"{source} is an HDF5 file, but not an anharm model file")
            check_limits(file, source)
            found = int(file.attrs["format_version"])
            if found != FORMAT_VERSION:
                raise ModelError(
                    f"{source} has model format {found}; this version of anharm reads format "
                    f"{FORMAT_VERSION}: fit the model again from its labels"
                )
            model = BayesianModel(
                expansion=_read_expansion(file["expansion"]),
                posterior=_read_posterior(file["posterior"]),
                noise=_read_noise(file.get("noise")),
                energy_per_cell=float(file.attrs["energy_per_cell"]),
                virial_per_cell=file["virial_per_cell"][()],
                constants_factor=file["constants_factor"][()],
                n_labels=int(file.attrs["n_labels"]),
                # Files from before it was stored allow what was allowed then.
                largest_strain=float(file.attrs.get("largest_strain", MAXIMUM_STRAIN)),
                version=int(file.attrs["version"]),
                provenance={k: str(v) for k, v in file["provenance"].attrs.items()},
            )
            if not is_consistent(model):
                raise ModelError(f"{source} contradicts itself: its arrays do not fit together")
    except _UNREADABLE as error:
        raise ModelError(f"{source} is not a readable anharm model file: {error}") from error
    return model


def _sealed(hdf5: bytes) -> bytes:
    """The user block that goes before the HDF5 content: what the file is, and its checksum."""
    checksum = hashlib.sha256(hdf5).hexdigest()
    text = f"{_TITLE}; HDF5 follows after {_BLOCK} bytes, of SHA-256\n{checksum}\n"
    return text.encode().ljust(_BLOCK)


def _unseal(content: bytes, source: str) -> bytes:
    """Check the user block first: a damaged HDF5 file can make the HDF5 library loop for ever."""
    if content == _sealed(content[_BLOCK:]) + content[_BLOCK:]:
        return content
    if content.startswith(_TITLE.encode()):
        raise ModelError(
            f"{source} is damaged: its content does not match its own checksum; restore it from "
            "a copy or fit the model again from its labels"
        )
    raise ModelError(f"{source} is not an anharm model file")


def _write_sparse(group: h5py.Group, name: str, matrix: csr_array) -> None:
    part = group.create_group(name)
    part.attrs["shape"] = matrix.shape
    for key in ("data", "indices", "indptr"):
        values = getattr(matrix, key)
        values = values.astype(np.int64) if key != "data" else values
        part.create_dataset(key, data=values, compression="gzip", shuffle=True)


def _read_sparse(group: h5py.Group) -> csr_array:
    arrays = (group["data"][()], group["indices"][()], group["indptr"][()])
    matrix = csr_array(arrays, shape=tuple(int(n) for n in group.attrs["shape"]))
    matrix.check_format(full_check=True)
    return matrix


def _write_expansion(group: h5py.Group, expansion: Expansion) -> None:
    group.attrs["space_group"] = expansion.space_group
    crystal = group.create_group("crystal")
    crystal["lattice"] = expansion.crystal.lattice
    crystal["fractional_positions"] = expansion.crystal.fractional_positions
    crystal["numbers"] = expansion.crystal.numbers
    for order in expansion.orders:
        part = group.create_group(f"order_{order}")
        part.attrs["parameters"] = expansion.parameters_per_order[order]
        part.attrs["unconstrained"] = expansion.unconstrained_per_order[order]
        part["bodies"] = list(expansion.cutoffs[order])
        part["cutoffs"] = list(expansion.cutoffs[order].values())
    group["bodies"] = expansion.bodies
    group.create_dataset(
        "monomial_variables", data=expansion.monomials.variables, compression="gzip", shuffle=True
    )
    group["monomial_orders"] = expansion.monomials.orders
    group["body_positions"] = expansion.monomials.body_positions
    if expansion.second_order_cell is not None:
        group["second_order_cell"] = expansion.second_order_cell
    _write_sparse(group, "monomial_weights", expansion.monomial_weights)
    _write_sparse(group, "constraint_basis", expansion.constraint_basis)


def _read_expansion(group: h5py.Group) -> Expansion:
    parts: dict[int, Any] = {
        int(name.removeprefix("order_")): group[name]
        for name in sorted(group)
        if name.startswith("order_")
    }
    return Expansion(
        crystal=Crystal(
            group["crystal/lattice"][()],
            group["crystal/fractional_positions"][()],
            group["crystal/numbers"][()],
        ),
        space_group=str(group.attrs["space_group"]),
        cutoffs={
            order: dict(
                zip(map(int, small_list(part["bodies"])), small_list(part["cutoffs"]), strict=True)
            )
            for order, part in parts.items()
        },
        parameters_per_order={o: int(p.attrs["parameters"]) for o, p in parts.items()},
        unconstrained_per_order={o: int(p.attrs["unconstrained"]) for o, p in parts.items()},
        bodies=group["bodies"][()],
        monomials=MonomialTable(
            group["monomial_variables"][()],
            group["monomial_orders"][()],
            group["body_positions"][()],
        ),
        monomial_weights=_read_sparse(group["monomial_weights"]),
        constraint_basis=_read_sparse(group["constraint_basis"]),
        second_order_cell=(
            group["second_order_cell"][()] if "second_order_cell" in group else None
        ),
    )


def _write_posterior(group: h5py.Group, posterior: Posterior) -> None:
    group["mean"] = posterior.mean
    group.create_dataset("factor", data=posterior.factor, compression="gzip", shuffle=True)
    orders = list(posterior.prior_precisions)
    group["orders"] = orders
    group["prior_precisions"] = [posterior.prior_precisions[g] for g in orders]
    group["effective_parameters"] = [posterior.effective_parameters[g] for g in orders]
    for kind, precision in posterior.noise_precisions.items():
        group.create_group(f"targets/{kind}").attrs["noise_precision"] = precision
    for key in ("log_evidence", "n_targets", "n_iterations"):
        group.attrs[key] = getattr(posterior, key)


def _read_posterior(group: h5py.Group) -> Posterior:
    orders = [int(g) for g in small_list(group["orders"])]
    return Posterior(
        mean=group["mean"][()],
        factor=group["factor"][()],
        prior_precisions=dict(zip(orders, small_list(group["prior_precisions"]), strict=True)),
        noise_precisions={
            kind: float(part.attrs["noise_precision"]) for kind, part in group["targets"].items()
        },
        effective_parameters=dict(
            zip(orders, small_list(group["effective_parameters"]), strict=True)
        ),
        log_evidence=float(group.attrs["log_evidence"]),
        n_targets=int(group.attrs["n_targets"]),
        n_iterations=int(group.attrs["n_iterations"]),
    )


def _read_noise(group: h5py.Group | None) -> dict[str, NoiseModel]:
    return {
        kind: NoiseModel(part["coefficients"][()], float(part.attrs["average"]))
        for kind, part in (group.items() if group is not None else ())
    }
