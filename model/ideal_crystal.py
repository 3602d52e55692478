"""Energy and virial of the ideal crystal in a strained cell, as far as its own stress makes them.

With the virial V of the reference cell and the stretch e of F = R (1 + e),

    E = -[V : e - V : (e e) / 2 + tr(e) V : e / 2 + tr(V) det(e) / 3]

The quadratic and cubic terms are what a stress adds to the elastic energy (D. C. Wallace, Solid
State Physics 25, 301 (1970)); `elastic_energy` holds the rest. For a pressure p they give exactly
-p times the change of volume.
"""

from __future__ import annotations

import numpy as np

from anharm.model.crystal import FloatArray
from anharm.model.stretch import Stretch


def ideal_energy(virials: FloatArray, deformation: FloatArray) -> FloatArray:
    """Energy (...,) of the ideal crystal relative to the reference cell, eV.

    Parameters
    ----------
    virials : (..., 3, 3) float
        -dE/dstrain in the reference cell, symmetric, eV.
    deformation : (3, 3) float
        F = 1 + eta.
    """
    e = Stretch.of(deformation).strain
    conjugate = e - e @ e / 2 + np.trace(e) * e / 2 + np.linalg.det(e) * np.eye(3) / 3
    return -np.einsum("...ij,ij->...", virials, conjugate)


def ideal_virial(virials: FloatArray, deformation: FloatArray) -> FloatArray:
    """Its virial (..., 3, 3) in the deformed cell, symmetric, eV; arguments as `ideal_energy`."""
    stretch = Stretch.of(deformation)
    e, one = stretch.strain, np.eye(3)
    trace = np.trace(e)
    cofactors = e @ e - trace * e + (trace**2 - np.trace(e @ e)) / 2 * one
    work = np.einsum("...ij,ij->...", virials, e)[..., None, None]
    isotropic = np.trace(virials, axis1=-2, axis2=-1)[..., None, None] / 3
    by_stretch = (
        virials
        - (e @ virials + virials @ e) / 2
        + (work * one + trace * virials) / 2
        + isotropic * cofactors
    )
    return stretch.virial(-by_stretch)
