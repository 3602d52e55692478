"""A model inside i-PI's own process: the PES class that <ffdirect> calls, without a socket."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from ipi.pes.dummy import Dummy_driver
from ipi.utils.softexit import softexit
from threadpoolctl import threadpool_limits

from anharm.clients.served_model import ServedModel, StandaloneClient
from anharm.errors import AnharmError, ConfigurationError
from anharm.extras import parse_extras
from anharm.model import load_model
from anharm.model.crystal import FloatArray
from anharm.structures import read_species
from anharm.wire import driver_protocol as protocol

PARAMETERS = ("model", "extras", "committee", "structure", "maximum_displacement", "threads")
FROM_ENGINE = {"verbosity", "verbose"}

Answer = tuple[float, FloatArray, FloatArray, str]  # in i-PI's own units


class LatticePES(Dummy_driver):
    """What i-PI constructs from <parameters> and calls with cells and positions in Bohr.

    Parameters
    ----------
    **parameters
        `model`, the path of a model file; `extras`, names separated by blanks, or "none";
        `committee`, a number of members; `structure`, a file that names the species of the atoms;
        `maximum_displacement`, Angstrom; `threads`.
    """

    def __init__(self, **parameters: Any) -> None:
        try:
            self._client = StandaloneClient(_served(parameters))
        except AnharmError as error:
            raise SystemExit(f"anharm: <ffdirect>: {error}") from error
        threadpool_limits(1, user_api="blas")  # for as long as i-PI runs
        super().__init__()

    def compute_structure(self, cell: FloatArray, pos: FloatArray) -> Answer:
        """Energy, forces, virial and extras of one structure.

        An error ends i-PI with one sentence, after it has written its RESTART.
        """
        try:
            evaluation = self._client.evaluate(protocol.configuration_of(cell, pos))
            return (*protocol.in_atomic_units(evaluation), evaluation.extras)
        except Exception as error:
            _end_the_engine(error)
            raise

    def compute(self, cell: Any, pos: Any) -> Answer | list[Answer]:
        """The same of one structure, or of each in two lists."""
        if not isinstance(cell, list):
            return self.compute_structure(cell, pos)
        try:
            batch = protocol.batch_of(np.array(cell), np.array(pos))
            evaluations = self._client.evaluate_batch(batch)
            # No array twice: i-PI writes into them.
            answers = protocol.all_in_atomic_units(evaluations, batch.size)
            last = len(evaluations) - 1
            extras = [evaluations[min(index, last)].extras for index in range(batch.size)]
            return [(*answer, extra) for answer, extra in zip(answers, extras, strict=True)]
        except Exception as error:
            _end_the_engine(error)
            raise


def _served(parameters: dict[str, Any]) -> ServedModel:
    unknown = sorted(parameters.keys() - set(PARAMETERS) - FROM_ENGINE)
    if unknown:
        raise ConfigurationError(
            f"<parameters> has {', '.join(unknown)}; known: {', '.join(PARAMETERS)}"
        )
    if "model" not in parameters:
        raise ConfigurationError(
            "<parameters> names no model; write for example { model: model.h5, extras: none }"
        )
    structure = parameters.get("structure")
    return ServedModel(
        model=load_model(Path(str(parameters["model"]))),
        extras=parse_extras(parameters.get("extras"), _positive(parameters, "committee", int)),
        numbers=None if structure is None else read_species(str(structure)),
        maximum_displacement=_positive(parameters, "maximum_displacement", float),
        threads=_positive(parameters, "threads", int) or 1,
    )


def _positive(parameters: dict[str, Any], name: str, kind: type[int] | type[float]) -> Any:
    """A number of <parameters>, which i-PI has read already; None if it is not there."""
    value = parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not 0 < value < 1e9:
        raise ConfigurationError(
            f"<parameters> has {name}: {value}, expected a "
            f"{'whole number' if kind is int else 'number'} above 0"
        )
    return value


def _end_the_engine(error: Exception) -> None:
    """Let i-PI write its RESTART and end, whichever of its threads this is.

    By itself, i-PI would end without RESTART, or wait for ever if its force fields have threads
    of their own. In another program than i-PI's command, the error goes to the caller.
    """
    if not softexit.hard_exit:
        return
    if not isinstance(error, AnharmError):
        traceback.print_exception(error)
    sentence = f"anharm: {error}"
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201
    softexit.register_function(_leave)  # the last of all: i-PI has saved its state by then
    softexit.trigger("bad", sentence)


def _leave() -> NoReturn:
    """End the process with the status of a failure, which i-PI's own ending does not have."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
