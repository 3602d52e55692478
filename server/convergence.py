"""Whether training has converged, judged without any new reference calculation."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from anharm.configuration import TrainingSection


def expected_gain(determined: float, targets: int) -> float:
    """By how much endless labels would lower the true error, as a share of what they leave.

    If what the expansion leaves out has the variance s^2, targets that no training saw are
    missed by s^2 n / (n - gamma) (generalised cross-validation: Craven and Wahba, Numer. Math.
    31, 377 (1979)).

    Parameters
    ----------
    determined : float
        Parameters that the labels determine (gamma).
    targets : int
        Force components, energies and virials of the labels (n).

    Returns
    -------
    float
        Zero if they are not known, infinite where there are no more targets than parameters.
    """
    if not targets:
        return 0.0
    left = 1 - determined / targets
    return inf if left <= 0 else float(left**-0.5 - 1)


@dataclass(frozen=True)
class Refit:
    """One model version and how well it knew the trajectory it drove.

    Attributes
    ----------
    labels : int
        Labels that the model was fitted to.
    step : int
        Step of the trajectory at which it took over.
    error : float
        Bayesian error max_i sigma_i averaged over the trajectory (eV/Angstrom).
    determined : float
        Parameters that its labels determine, of all orders (MacKay's gamma); zero if not known.
    targets : int
        Force components, energies and virials of its labels; zero if not known.
    """

    labels: int
    step: int
    error: float
    determined: float = 0.0
    targets: int = 0

    @property
    def expected_gain(self) -> float:
        """By how much endless labels would lower the true error, as a share of what they leave."""
        return expected_gain(self.determined, self.targets)


@dataclass(frozen=True)
class Convergence:
    """A verdict and the sentence that explains it."""

    converged: bool
    reason: str


def assess_convergence(
    history: Sequence[Refit],
    steps_since_label: int,
    settings: TrainingSection,
    refits_since_label: int = 0,
) -> Convergence:
    """Judge whether further labels would still improve the model.

    Training has converged when the trajectory-averaged errors after the last
    `convergence_refits` refits differ by less than `convergence_tolerance` of their mean
    (a spread, so that a slow steady fall is no plateau), or when no label was wanted in
    `quiet_steps` steps and that many audits were learnt meanwhile: the errors of a model
    that no further label has tested may be wrong, and the label that stood out last is not
    the last from which the model learns much. Without audits, quiet needs that many refits
    in all.

    It has also converged when, after as many refits, endless labels are expected to lower the true
    error by less than `convergence_tolerance`: the Bayesian errors fall with every label for ever,
    also where what the expansion leaves out has long been all that counts.

    In all cases the number of parameters that the labels determine must have a plateau, too,
    by the same measure. While each label determines further parameters, what they do to the
    forces counts as noise, and is found neither in the Bayesian errors nor in their change.
    Parameters that no label determines, as those of the highest orders at low temperature, do
    not keep training from converging. And endless labels must be expected to lower the true error
    by less than `convergence_gain`: many parameters are learnt so slowly that five refits look
    like a plateau.

    Parameters
    ----------
    history : sequence of Refit
        All refits so far, oldest first.
    steps_since_label : int
        Steps since a label was last wanted, whether or not the budget allowed it.
    settings : TrainingSection
    refits_since_label : int
        Refits since that label was learnt, which were made for audits.

    Returns
    -------
    Convergence
    """
    if not history:
        return Convergence(False, "There is no model yet.")
    found = _assess_gain(history, settings)
    if not found.converged:
        found = _assess_errors(history, steps_since_label, settings, refits_since_label)
    if not found.converged:
        return found
    growth = _growth_of_determined(
        history[-settings.convergence_refits :], settings.convergence_tolerance
    )
    if growth:
        return Convergence(False, growth)
    gain = history[-1].expected_gain
    if gain < settings.convergence_gain:
        return found
    return Convergence(
        False,
        f"The errors have settled, but {history[-1].labels} labels are few for the "
        f"{history[-1].determined:.0f} parameters that they determine: endless labels would lower "
        f"the true error by {gain:.1%}, not less than convergence_gain = "
        f"{settings.convergence_gain:.1%}.",
    )


def _assess_gain(history: Sequence[Refit], settings: TrainingSection) -> Convergence:
    """Whether labels are so many for what they determine that more of them hardly matter."""
    last, tolerance = history[-1], settings.convergence_tolerance
    enough = len(history) >= settings.convergence_refits and last.targets > 0
    return Convergence(
        enough and last.expected_gain < tolerance,
        f"By the {last.determined:.0f} parameters that {last.labels} labels determine, endless "
        f"labels would lower the true error by {last.expected_gain:.1%}, less than the tolerance "
        f"of {tolerance:.1%}; the average error is {last.error:.4g} eV/A.",
    )


def _assess_errors(
    history: Sequence[Refit],
    steps_since_label: int,
    settings: TrainingSection,
    refits_since_label: int,
) -> Convergence:
    wanted = settings.convergence_refits
    tests = refits_since_label if settings.audit_interval else len(history)
    if steps_since_label >= settings.quiet_steps and min(tests, len(history)) >= wanted:
        return Convergence(
            True,
            f"No label was wanted in the last {steps_since_label} steps "
            f"(quiet_steps = {settings.quiet_steps}) and {tests} refits; the average error is "
            f"{history[-1].error:.4g} eV/A with {history[-1].labels} labels.",
        )
    if len(history) < wanted:
        return Convergence(
            False,
            f"{len(history)} of the {wanted} refits that a plateau needs; the last label was "
            f"wanted {steps_since_label} of {settings.quiet_steps} steps ago.",
        )
    return _assess_plateau(history[-wanted:], settings.convergence_tolerance)


def _assess_plateau(refits: Sequence[Refit], tolerance: float) -> Convergence:
    errors = [refit.error for refit in refits]
    mean = sum(errors) / len(errors)
    if mean <= 0:
        return Convergence(
            False,
            f"The average errors of the last {len(errors)} refits are all zero, which no "
            "trained model gives: check the labels and the noise level.",
        )
    change = _spread(errors)
    relation = "less" if change < tolerance else "not less"
    return Convergence(
        change < tolerance,
        f"Over the last {len(errors)} refits ({refits[0].labels} to {refits[-1].labels} labels) "
        f"the average error went from {errors[0]:.4g} to {errors[-1]:.4g} eV/A and varied by "
        f"{change:.1%}, {relation} than the tolerance of {tolerance:.1%}.",
    )


def _growth_of_determined(refits: Sequence[Refit], tolerance: float) -> str:
    """Say that the labels of these refits determined more and more parameters; or ""."""
    determined = [refit.determined for refit in refits]
    if not any(determined):
        return ""
    change = _spread(determined)
    if change < tolerance:
        return ""
    return (
        f"The errors have settled, but what the labels determine has not: over the last "
        f"{len(refits)} refits ({refits[0].labels} to {refits[-1].labels} labels) it went from "
        f"{determined[0]:.0f} to {determined[-1]:.0f} parameters, a change of {change:.1%}, not "
        f"less than the tolerance of {tolerance:.1%}."
    )


def _spread(values: Sequence[float]) -> float:
    """Largest difference in units of the mean, which is above zero."""
    return (max(values) - min(values)) * len(values) / sum(values)
