"""Lattice thermal conductivity from second and third order, by phono3py."""

from __future__ import annotations

from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, IntArray, Supercell
from anharm.model.export.density_of_states import check_mesh
from anharm.model.export.force_constants import dense_force_constants
from anharm.model.export.harmonic_samples import posterior_samples
from anharm.model.export.phono3py import to_phono3py
from anharm.model.export.phonopy import require_package, supercell_order
from anharm.model.export.supercells import same_primitive_cell

_UNSTABLE = -0.05  # THz; acoustic modes at the zone centre are zero to rounding only


@dataclass(frozen=True)
class Transport:
    """How phono3py solves the Boltzmann equation of phonons.

    Attributes
    ----------
    temperatures : (n,) float
        K.
    mesh : (3,) int or float
        Divisions of the reciprocal vectors, or a length in Angstrom.
    direct : bool
        Direct solution of the linearised equation; relaxation times otherwise.
    isotopes : bool
        Scattering by the natural mixture of isotopes.
    """

    temperatures: FloatArray
    mesh: ArrayLike | float = 35.0
    direct: bool = False
    isotopes: bool = False


@dataclass(frozen=True)
class Conductivity:
    """Lattice thermal conductivity, of the posterior's mean and of samples from it.

    Attributes
    ----------
    temperatures : (n,) float
        K.
    kappa : (n, 6) float
        xx, yy, zz, yz, xz, xy of the mean model, W/(m K).
    samples : (n_samples, n, 6) float
        Of models drawn from the posterior.
    mesh : (3,) int
    lowest_frequency : float
        On the mesh, THz; negative if imaginary. phono3py leaves out modes that are.
    """

    temperatures: FloatArray
    kappa: FloatArray
    samples: FloatArray
    mesh: IntArray
    lowest_frequency: float

    @property
    def is_stable(self) -> bool:
        """Whether no frequency on the mesh is imaginary."""
        return self.lowest_frequency > _UNSTABLE

    def interval(self, probability: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """(n, 6) central credible interval of each component; of 2 samples or more."""
        tail = (1 - probability) / 2
        lower, upper = np.quantile(self.samples, [tail, 1 - tail], axis=0)
        return lower, upper


def conductivity(
    model: BayesianModel,
    transport: Transport,
    supercell: ArrayLike | None = None,
    n_samples: int = 0,
    seed: int = 0,
) -> Conductivity:
    """Conductivity of a model, and of samples from its posterior.

    Parameters
    ----------
    model : BayesianModel
        Of orders 2 and 3 at least.
    transport : Transport
    supercell : array_like of int, optional
        As for `to_phono3py`; the conductivity does not depend on it.
    n_samples, seed : int
        Each sample costs as much as the mean.

    Raises
    ------
    ModelError
        See `to_phono3py`; or if mesh or temperatures cannot be used.
    """
    phonon = to_phono3py(model, supercell)
    kappa, mesh, lowest = solve(phonon, transport)
    chosen = Supercell(model.expansion.crystal, np.asarray(phonon.supercell_matrix).T)
    atoms = supercell_order(chosen, phonon.supercell)
    rows = np.asarray(phonon.primitive.p2s_map)
    samples = np.empty((n_samples, *kappa.shape))
    for index, sample in enumerate(posterior_samples(model, n_samples, seed)):
        phonon.fc2 = dense_force_constants(sample, 2, chosen, atoms, rows)
        phonon.fc3 = dense_force_constants(sample, 3, chosen, atoms, rows)
        samples[index] = solve(phonon, transport)[0]
    return Conductivity(np.asarray(transport.temperatures), kappa, samples, mesh, lowest)


def solve(phonon: Any, transport: Transport) -> tuple[FloatArray, IntArray, float]:
    """Conductivity (n_temperatures, 6), mesh and lowest frequency of a `phono3py.Phono3py`.

    Raises
    ------
    ModelError
        If mesh or temperatures cannot be used.
    """
    temperatures = np.asarray(transport.temperatures, dtype=float)
    if temperatures.ndim != 1 or not len(temperatures) or not (temperatures > 0).all():
        raise ModelError(f"temperatures {temperatures.tolist()} are not positive numbers of K")
    phonon.mesh_numbers = check_mesh(transport.mesh)
    phonon.init_phph_interaction()
    phonon.run_thermal_conductivity(
        is_LBTE=transport.direct, temperatures=temperatures, is_isotope=transport.isotopes
    )
    found = phonon.thermal_conductivity
    lowest = float(np.min(found.frequencies))
    return np.array(found.kappa)[0], np.array(phonon.mesh_numbers), lowest


def load_phono3py(path: Path, model: BayesianModel) -> Any:
    """Read a phono3py yaml file of the model's crystal, with forces or force constants.

    What the file lacks (fc2.hdf5, fc3.hdf5, FORCES_FC3, ...) is looked for beside it.

    Raises
    ------
    ModelError
        If there is no such file, phono3py cannot read it, it leads to no force constants, or it is
        of another crystal.
    """
    phono3py = require_package("phono3py")
    if not path.is_file():
        raise ModelError(f"the phono3py file {path} does not exist")
    try:
        with chdir(path.resolve().parent):  # phono3py looks for files in the working directory
            phonon = phono3py.load(path.name, log_level=0)
    except Exception as error:  # whatever its parsers raise
        raise ModelError(
            f"phono3py cannot read {path}: {type(error).__name__}: {error}; give a file that "
            'phono3py wrote, such as with phonon.save("phono3py_params.yaml")'
        ) from error
    same_primitive_cell(to_phono3py(model).primitive, phonon.primitive, str(path))
    if phonon.fc2 is None or phonon.fc3 is None:
        raise ModelError(f"phono3py finds no force constants of orders 2 and 3 in or beside {path}")
    return phonon
