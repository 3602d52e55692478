"""Errors that a user can cause, each with the exit code of the command it ends.

A message says what is wrong, where, the value seen, and what to do about it.
"""


class AnharmError(Exception):
    """Base of every error that is reported as one message and no traceback."""

    exit_code = 1


class ConfigurationError(AnharmError):
    """Bad usage, or a configuration or an input file that cannot be used."""

    exit_code = 2


class RunFailed(AnharmError):
    """A run that started and could not go on."""


class ModelError(AnharmError):
    """A crystal, expansion, training set or configuration that the model cannot use."""
