"""Whether training has converged, judged without any new reference calculation."""

from collections.abc import Sequence
from dataclasses import dataclass

from anharm.configuration import TrainingSection


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
    """

    labels: int
    step: int
    error: float


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
    change = (max(errors) - min(errors)) / mean
    relation = "less" if change < tolerance else "not less"
    return Convergence(
        change < tolerance,
        f"Over the last {len(errors)} refits ({refits[0].labels} to {refits[-1].labels} labels) "
        f"the average error went from {errors[0]:.4g} to {errors[-1]:.4g} eV/A and varied by "
        f"{change:.1%}, {relation} than the tolerance of {tolerance:.1%}.",
    )
