"""That a run has converged, and how far it is from that, as its record keeps it."""

from anharm.configuration import TrainingSection
from anharm.server.convergence import expected_gain
from anharm.server.record import Record


def has_converged(record: Record, settings: TrainingSection) -> bool:
    """Whether an earlier part of the run converged, by the criteria that hold now."""
    return record.metadata().get("converged_settings") == _criteria(settings)


def expected_gains(record: Record) -> dict[int, float]:
    """By model version, the share of its true error that endless labels would save."""
    return {
        model.version: expected_gain(model.determined_parameters, model.n_targets)
        for model in record.models()
    }


def note_convergence(record: Record, settings: TrainingSection, step: int, reason: str) -> None:
    """Note when and why the run converged."""
    record.log(f"training converged at step {step}: {reason}")
    record.set_metadata(
        {
            "converged": reason,
            "converged_step": str(step),
            "converged_settings": _criteria(settings),
        }
    )


def withdraw_convergence(record: Record, why: str) -> None:
    """Note that the run has not converged after all."""
    record.log(why, "warning")
    record.set_metadata({"converged": "", "converged_step": "", "converged_settings": ""})


def _criteria(settings: TrainingSection) -> str:
    numbers = (
        settings.convergence_tolerance,
        settings.convergence_refits,
        settings.quiet_steps,
        settings.convergence_gain,
    )
    return " ".join(map(str, numbers)) + " of errors and determined parameters"
