"""Energy and virial of the ideal crystal in a strained cell, as far as its own stress makes them.

With the virial V of the reference cell, eta = F - 1, and e its symmetric part,

    E = -[V : eta + V : (eta^T eta) / 2 - V : (e e) + tr(e) V : e / 2]

The quadratic terms are what a stress adds to the elastic energy (D. C. Wallace, Solid State Physics
25, 301 (1970)); `strain_table` holds the rest. For a pressure p they give -p times the change of
volume.
"""

from __future__ import annotations

import numpy as np

from anharm.model.crystal import FloatArray


def ideal_energy(virials: FloatArray, deformation: FloatArray) -> FloatArray:
    """Energy (...,) of the ideal crystal relative to the reference cell, eV.

    Parameters
    ----------
    virials : (..., 3, 3) float
        -dE/dstrain in the reference cell, symmetric, eV.
    deformation : (3, 3) float
        F = 1 + eta.
    """
    eta = deformation - np.eye(3)
    e = (eta + eta.T) / 2
    conjugate = eta + eta.T @ eta / 2 - e @ e + np.trace(e) * e / 2
    return -np.einsum("...ij,ij->...", virials, conjugate)


def ideal_virial(virials: FloatArray, deformation: FloatArray) -> FloatArray:
    """Its virial (..., 3, 3) in the deformed cell, symmetric, eV; arguments as `ideal_energy`."""
    eta = deformation - np.eye(3)
    e = (eta + eta.T) / 2
    work = np.einsum("...ij,ij->...", virials, e)[..., None, None]
    by_strain = (
        virials
        + eta @ virials
        - e @ virials
        - virials @ e
        + (work * np.eye(3) + np.trace(e) * virials) / 2
    )
    found = by_strain @ deformation.T
    symmetric: FloatArray = (found + np.swapaxes(found, -1, -2)) / 2
    return symmetric
