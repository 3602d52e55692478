"""Anharmonic free energy of a small cell by perturbation theory, quantum or of P beads.

First order in the quartic terms and second order in the cubic ones (R. A. Cowley, Adv. Phys. 12,
421 (1963)), with nothing sampled:

    F4 = 1/8 sum_ab Phi_aabb s_a s_b
    F3 = -1/(2 hbar) int_0^(beta hbar) dt [ 1/6 sum_abc Phi_abc^2 G_a(t) G_b(t) G_c(t)
                                           + 1/4 sum_a G_a(t) (sum_b Phi_abb s_b)^2 ]

in mass-weighted normal coordinates q_a, with G_a(t) = <q_a(t) q_a(0)> and s_a = G_a(0). For P beads
the integral is a sum over them, and G is that of the ring polymer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import units

from anharm.model import ForceField
from anharm.model.normal_modes import HBAR, NormalModes, hessian

_MASS = units._amu * 1e10 / units._e  # eV fs^2 / Angstrom^2 of an atomic mass unit
_STEP = 0.02  # Angstrom, of the largest atom; the models are polynomials, for which it is exact
_POINTS = 64  # imaginary times of the quantum integral


@dataclass(frozen=True, eq=False)
class Anharmonicity:
    """Third and fourth derivatives along normal coordinates.

    Attributes
    ----------
    modes : NormalModes
    cubic : (n, n, n) float
        Phi_abc, eV^(-1/2) fs^(-3).
    quartic : (n, n) float
        Phi_aabb, 1 / (eV fs^4).
    """

    modes: NormalModes
    cubic: np.ndarray
    quartic: np.ndarray

    @classmethod
    def of(cls, force_field: ForceField, modes: NormalModes) -> Anharmonicity:
        """Differentiate second derivatives once and twice along every mode."""
        roots = np.sqrt(modes.masses * _MASS)[:, None]
        patterns = modes.vectors / roots  # displacement per normal coordinate
        flat = patterns.reshape(len(patterns), -1)

        def in_modes(displacement: np.ndarray) -> np.ndarray:
            return flat @ hessian(force_field, displacement) @ flat.T

        centre = in_modes(np.zeros_like(patterns[0]))
        cubic, quartic = [], []
        for pattern in patterns:
            step = _STEP / np.abs(pattern).max()
            plus, minus = in_modes(step * pattern), in_modes(-step * pattern)
            cubic.append((plus - minus) / (2 * step))
            quartic.append(np.diag(plus + minus - 2 * centre) / step**2)
        return cls(modes, np.array(cubic), np.array(quartic))

    def energy(self, temperature: float, beads: int | None = None) -> float:
        """What anharmonicity adds to the energy, d(beta F)/d(beta), eV."""
        step = 0.01  # of the temperature
        ends = [temperature * (1 + step), temperature * (1 - step)]
        hot, cold = (sum(self.free_energy(t, beads)) / t for t in ends)
        return float((hot - cold) / (1 / ends[0] - 1 / ends[1]))

    def free_energy(self, temperature: float, beads: int | None = None) -> tuple[float, float]:
        """F3 and F4, eV."""
        squares = self.modes.squares(temperature, beads)
        times, weights = _correlations(self.modes, temperature, beads)
        tadpole = np.einsum("abb,b->a", self.cubic, squares)
        third = 0.0
        for g, weight in zip(times, weights, strict=True):
            triple = np.einsum("abc,c->ab", self.cubic**2, g, optimize=True)
            third -= weight / (2 * HBAR) * (g @ triple @ g / 6 + g @ tadpole**2 / 4)
        return float(third), float(squares @ self.quartic @ squares / 8)


def _correlations(
    modes: NormalModes, temperature: float, beads: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """G_a(t), shape (n_times, n_modes), and the weights of a sum that is the integral over t."""
    thermal, w = units.kB * temperature, modes.frequencies
    length = HBAR / thermal
    if beads is not None:
        k = np.arange(beads)
        free = 2 * beads / length * np.sin(np.pi * k / beads)
        phases = np.cos(2 * np.pi * np.outer(k, k) / beads)
        return phases @ (thermal / (w**2 + free[:, None] ** 2)), np.full(beads, length / beads)
    # G falls off within 1 / w of either end: half the interval, denser towards its end.
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    x = (nodes + 1) / 2
    t = length / 2 * x**2
    decay = np.exp(-np.outer(t, w)) + np.exp(-np.outer(length - t, w))
    g = HBAR / (2 * w) * decay / (1 - np.exp(-length * w))
    return g, 2 * (length / 2) * 2 * x * weights / 2
