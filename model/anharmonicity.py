"""How anharmonic a crystal is: the share of its forces that no harmonic model gives.

sigma_A = sqrt(sum (F - F2)^2 / sum F^2), F2 the harmonic forces, the sums over all atoms,
components and configurations of a thermal ensemble: F. Knoop, T. A. R. Purcell, M. Scheffler and
C. Carbogno, Phys. Rev. Materials 4, 083809 (2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.labels import Label, LabelReader

HARMONIC = 2
_NO_FORCE = 1e-9  # eV/Angstrom, rms: far above the rounding of positions, far below thermal forces

HarmonicForces = Callable[[Label], FloatArray]


@dataclass(frozen=True)
class Estimate:
    """A number, its error from the finite number of configurations, and its credible interval.

    Attributes
    ----------
    value : float
    sampling_error : float
        Standard error if the configurations are independent; nan for one alone.
    interval : (float, float)
        Central, of samples from the posterior.
    """

    value: float
    sampling_error: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Anharmonicity:
    """Measures of one set of configurations.

    Attributes
    ----------
    n_configurations : int
    has_reference : bool
        Whether the forces of a reference were given; only the model's own are known otherwise.
    rms_force : float
        Of the reference, or of the model without one; eV/Angstrom.
    reference, model : Estimate
        sigma_A with the forces of the reference and with those of the model; `reference` is None
        without one.
    remaining : dict
        Order n -> rms(F - sum of the model's forces up to order n) / rms(F), F of the reference:
        n = 2 is sigma_A, and the last one the relative error of the model. Empty without one.
    contributions : dict
        Order n -> rms(F_n) / rms(F), both of the model.
    by_element : dict
        Chemical symbol -> sigma_A of its atoms; with the reference's forces if there are any.
    forces, anharmonic : (n,) float
        Every component of F and of F - F2, eV/Angstrom, for pictures; of the reference if there is
        one.
    """

    n_configurations: int
    has_reference: bool
    rms_force: float
    reference: Estimate | None
    model: Estimate
    remaining: dict[int, float]
    contributions: dict[int, float]
    by_element: dict[str, float]
    forces: FloatArray
    anharmonic: FloatArray


def anharmonicity(
    model: BayesianModel,
    structures: Iterable[Atoms],
    n_samples: int = 100,
    probability: float = 0.95,
    harmonic: HarmonicForces | None = None,
    seed: int = 0,
) -> Anharmonicity:
    """Anharmonicity measure of configurations of a thermal ensemble.

    Parameters
    ----------
    model : BayesianModel
        Of order 2 at least; F2 are its forces up to order 2.
    structures : iterable of ase.Atoms
        Supercells in any order of the atoms; all with forces of a reference, or none.
    n_samples : int
        Drawn from the posterior, for the intervals.
    probability : float
        Of the credible intervals.
    harmonic : callable, optional
        Gives F2 (3 n_atoms,) of a `Label` in the place of the model.
    seed : int

    Raises
    ------
    ModelError
        If the model has no second order, a structure is not of its crystal, only some have forces,
        or all forces are zero.
    """
    if HARMONIC not in model.expansion.orders:
        raise ModelError("the model has no second order, so nothing says what is harmonic")
    sums = _Sums(model, n_samples, harmonic, seed)
    for index, atoms in enumerate(structures):
        try:
            sums.add(atoms)
        except ModelError as error:
            raise ModelError(f"structure {index}: {error}") from error
    if not sums.reference_squares and not sums.model_squares:
        raise ModelError("there is no configuration to find the anharmonicity of")
    return sums.result(probability)


class _Sums:
    """Sums of squares over configurations, kept per configuration for the jackknife."""

    def __init__(
        self, model: BayesianModel, n_samples: int, harmonic: HarmonicForces | None, seed: int
    ) -> None:
        self.model = model
        self._harmonic = harmonic
        self._reader = LabelReader(model.expansion)
        orders = model.expansion.parameter_orders
        self._columns = {n: np.flatnonzero(orders == n) for n in model.expansion.orders}
        self._low = np.flatnonzero(orders <= HARMONIC)
        self._samples = model.posterior.samples(n_samples, seed).T
        self.has_reference: bool | None = None
        # Of each configuration: (rest^2, force^2), of the mean first and then of each sample.
        self.reference_squares: list[FloatArray] = []
        self.model_squares: list[FloatArray] = []
        self._remaining: dict[int, float] = dict.fromkeys(self._anharmonic_orders(), 0.0)
        self._contributions: dict[int, float] = dict.fromkeys(model.expansion.orders, 0.0)
        self._elements: dict[int, FloatArray] = {}
        self._forces: list[FloatArray] = []
        self._rests: list[FloatArray] = []

    def _anharmonic_orders(self) -> list[int]:
        return [n for n in self.model.expansion.orders if n >= HARMONIC]

    def add(self, atoms: Atoms) -> None:
        known = atoms.calc.results.get("forces") if atoms.calc is not None else None
        if self.has_reference is None:
            self.has_reference = known is not None
        elif self.has_reference != (known is not None):
            raise ModelError("some structures have forces and others have none; give one kind")
        label = self._reader.read(
            np.array(atoms.cell[:]),
            atoms.positions,
            None if known is None else np.asarray(known, dtype=float),
            None,
            None,
            atoms.numbers,
        )
        rows = label.strained_sum.force_rows(label.deformation, label.displacements)
        by_order = {n: rows[:, own] @ self.model.posterior.mean[own]
                    for n, own in self._columns.items()}  # fmt: skip
        parameters = np.column_stack([self.model.posterior.mean, self._samples])
        predicted = rows @ parameters
        if self._harmonic is None:
            harmonic = rows[:, self._low] @ parameters[self._low]
        else:
            harmonic = self._harmonic(label)[:, None]
        forces = predicted[:, 0]
        self.model_squares.append(_squares(predicted, predicted - harmonic))
        if known is not None:
            forces = label.targets["forces"].values
            rest = forces[:, None] - harmonic
            self.reference_squares.append(_squares(np.broadcast_to(forces[:, None], rest.shape),
                                                   rest))  # fmt: skip
            left = rest[:, 0]
            for n in self._remaining:
                left = left - (by_order[n] if n > HARMONIC else 0.0)
                self._remaining[n] += float(left @ left)
        for n, part in by_order.items():
            self._contributions[n] += float(part @ part)
        rest = forces - harmonic[:, 0]
        self._forces.append(forces)
        self._rests.append(rest)
        self._add_elements(label.strained_sum.supercell.numbers, forces, rest)

    def _add_elements(self, numbers: IntArray, forces: FloatArray, rest: FloatArray) -> None:
        for number in np.unique(numbers):
            own = np.repeat(numbers == number, 3)
            squares = np.array([rest[own] @ rest[own], forces[own] @ forces[own]])
            self._elements[int(number)] = self._elements.get(int(number), 0) + squares

    def result(self, probability: float) -> Anharmonicity:
        forces, rests = np.concatenate(self._forces), np.concatenate(self._rests)
        own_square = sum(squares[1, 0] for squares in self.model_squares)
        square = float(forces @ forces)
        rms_force = float(np.sqrt(square / len(forces)))
        if not rms_force > _NO_FORCE:
            raise ModelError("every force is zero: give configurations of a thermal ensemble")
        return Anharmonicity(
            n_configurations=len(self._forces),
            has_reference=bool(self.has_reference),
            rms_force=rms_force,
            reference=_estimate(self.reference_squares, probability)
            if self.reference_squares
            else None,
            model=_estimate(self.model_squares, probability),
            remaining={n: float(np.sqrt(one / square)) for n, one in self._remaining.items()}
            if self.reference_squares
            else {},
            contributions={n: float(np.sqrt(one / own_square))
                           for n, one in self._contributions.items()},
            by_element={
                chemical_symbols[number]: float(np.sqrt(squares[0] / squares[1]))
                for number, squares in sorted(self._elements.items())
            },
            forces=forces,
            anharmonic=rests,
        )  # fmt: skip


def _squares(forces: FloatArray, rest: FloatArray) -> FloatArray:
    """(2, 1 + n_samples) sums of squares of the rest and of the forces of one configuration."""
    return np.array([np.sum(rest**2, axis=0), np.sum(forces**2, axis=0)])


def _estimate(squares: list[FloatArray], probability: float) -> Estimate:
    """The ratio of the sums; its error by the jackknife over configurations."""
    every = np.array(squares)
    total = every.sum(axis=0)
    ratios = np.sqrt(total[0] / total[1])
    tail = (1 - probability) / 2
    ends = np.quantile(ratios[1:], [tail, 1 - tail]) if len(ratios) > 1 else ratios[[0, 0]]
    n = len(every)
    error = np.nan
    if n > 1:
        without = total[:, 0] - every[:, :, 0]
        left_out = np.sqrt(without[:, 0] / without[:, 1])
        error = np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2))
    return Estimate(float(ratios[0]), float(error), (float(ends[0]), float(ends[1])))
