"""Any ASE calculator as a client of the i-PI protocol, with the checks that DFT codes lack."""

import json
import logging
from time import monotonic, sleep
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from anharm.errors import RunFailed
from anharm.wire.addresses import OnWait, SocketAddress, connect
from anharm.wire.channel import PeerClosed
from anharm.wire.driver_client import serve
from anharm.wire.driver_protocol import Configuration, Evaluation

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.3


class CalculationFailed(RunFailed):
    """The calculator gave no answer that could be trusted."""


def run_reference_client(
    address: SocketAddress,
    atoms: Atoms,
    calculator: Any,
    *,
    connection_deadline: float = 60.0,
    failures_allowed: int = 0,
    on_wait: OnWait | None = None,
) -> None:
    """Compute what a server of the i-PI protocol asks for, until it says that it ends.

    A server that breaks off without a word is one that was killed and will be started again: the
    client comes back, and if it is asked for the same configuration once more, it has the answer.

    Parameters
    ----------
    address : SocketAddress
        The server's: the broker's `reference.address`, or i-PI's own.
    atoms : ase.Atoms
        The elements, in the order of the positions that will come.
    calculator : ASE calculator
    connection_deadline : float
        How long to wait for the server (s).
    failures_allowed : int
        How many calculations in a row may fail. The client leaves the server after each, as
        the protocol knows no other way to say so, and comes back.
    on_wait : callable, optional
        As for `anharm.wire.addresses.connect`.

    Raises
    ------
    CalculationFailed
        If the calculator fails too often in a row: an exception, an SCF that is known not to
        have converged, numbers that are not finite.
    RunFailed
        If no server comes up (again), or it sends what the protocol does not allow.
    """
    reference = _Reference(atoms, calculator)
    served = monotonic()
    while True:
        connection = connect(address, connection_deadline, on_wait)
        logger.info("connected to %s", address)
        count = reference.evaluations
        try:
            if serve(connection, reference.evaluate) == "exit":
                return
            reason = "the server closed the connection"
        except PeerClosed as error:
            reason = str(error)
        except CalculationFailed as error:
            if reference.failures > failures_allowed:
                raise
            reason = str(error)
        logger.error("%s; connecting again", reason)
        if reference.evaluations > count:
            served = monotonic()
        elif monotonic() - served > connection_deadline:
            raise RunFailed(
                f"the server at {address} closes every connection and asks for nothing, for "
                f"{connection_deadline:.0f} s now ({reason}); see its own output"
            )
        else:
            sleep(_PAUSE_SECONDS)
        reference.keep_answer()


class _Reference:
    """An ASE calculator and the checks around it."""

    def __init__(self, atoms: Atoms, calculator: Any) -> None:
        self.atoms = atoms.copy()
        self.atoms.calc = calculator
        self.has_stress = bool(self.atoms.pbc.all())
        self.failures = 0
        self.evaluations = 0
        self._last: tuple[Configuration, Evaluation] | None = None
        self._kept: tuple[Configuration, Evaluation] | None = None

    def keep_answer(self) -> None:
        """Keep the last answer, which the server may have lost, for when it asks again."""
        self._kept = self._kept or self._last

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Return what the calculator says about a configuration."""
        if len(configuration.positions) != len(self.atoms):
            raise RunFailed(
                f"the server sends {len(configuration.positions)} atoms, and this client was "
                f"started for {len(self.atoms)} ({self.atoms.get_chemical_formula()}): give both "
                "the same system"
            )
        self.evaluations += 1
        kept, self._kept = self._kept, None
        if kept is not None and _is_same(kept[0], configuration):
            logger.info("asked again for what has been computed: no need to compute it twice")
            evaluation = kept[1]
        else:
            if self.failures and hasattr(self.atoms.calc, "reset"):
                self.atoms.calc.reset()  # or it would repeat what it keeps of the failed try
            self.failures += 1
            evaluation = self._calculate(configuration)
            self._check(evaluation)
            self.failures = 0
        self._last = (configuration, evaluation)
        return evaluation

    def _calculate(self, configuration: Configuration) -> Evaluation:
        atoms = self.atoms
        atoms.set_cell(configuration.cell)
        atoms.set_positions(configuration.positions)
        try:
            energy = self._energy()
            forces = atoms.get_forces(apply_constraint=False)
            virial = self._virial()
        except Exception as error:
            raise CalculationFailed(
                f"the calculator {type(atoms.calc).__name__} failed: "
                f"{type(error).__name__}: {error}"
            ) from error
        # The key is always there: i-PI wants the same keys in every answer.
        extras = json.dumps({"has_virial": self.has_stress})
        return Evaluation(energy, np.array(forces, dtype=float), virial, extras)

    def _energy(self) -> float:
        """The energy whose derivatives the forces are: with smearing, the free energy."""
        try:
            return float(self.atoms.get_potential_energy(force_consistent=True))
        except PropertyNotImplementedError:
            return float(self.atoms.get_potential_energy())

    def _virial(self) -> np.ndarray:
        if self.has_stress:
            try:
                stress = self.atoms.get_stress(voigt=False, apply_constraint=False)
                return -stress * self.atoms.get_volume()
            except (PropertyNotImplementedError, NotImplementedError):
                self.has_stress = False
                logger.warning(
                    "%s gives no stress: the virial is sent as zeros, which anharm takes as "
                    "missing and i-PI as the truth; use no barostat on it",
                    type(self.atoms.calc).__name__,
                )
        return np.zeros((3, 3))

    def _check(self, evaluation: Evaluation) -> None:
        name = type(self.atoms.calc).__name__
        if evaluation.forces.shape != self.atoms.positions.shape:
            raise CalculationFailed(
                f"{name} returned forces of shape {evaluation.forces.shape} for "
                f"{len(self.atoms)} atoms"
            )
        numbers = (evaluation.energy, evaluation.forces, evaluation.virial)
        if not all(np.isfinite(values).all() for values in numbers):
            raise CalculationFailed(
                f"{name} returned numbers that are not finite; nothing was sent. Look for atoms "
                "that are too close to each other"
            )
        if _is_converged(self.atoms.calc) is False:
            raise CalculationFailed(
                f"{name} says that it has not converged; nothing was sent. Allow more SCF "
                "iterations or a gentler mixing in its parameters"
            )


def _is_same(one: Configuration, other: Configuration) -> bool:
    return np.array_equal(one.positions, other.positions) and np.array_equal(one.cell, other.cell)


def _is_converged(calculator: Any) -> bool | None:
    """Ask a calculator in the ways calculators know; None where it does not say."""
    for holder in (calculator, getattr(calculator, "scf", None)):
        converged = getattr(holder, "converged", None)
        if callable(converged):
            converged = converged()
        if isinstance(converged, (bool, np.bool_)):
            return bool(converged)
    converged = getattr(calculator, "results", {}).get("converged")
    return None if converged is None else bool(converged)
