"""`anharm plan`: what a run.toml asks for, before anything expensive is computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from anharm.configuration import RunConfiguration
from anharm.errors import AnharmError
from anharm.model.clusters import largest_fitting_cutoff
from anharm.model.crystal import Supercell
from anharm.model.expansion_size import ExpansionSize
from anharm.model.memory import estimate_memory
from anharm.model.sites import default_maximum_displacement
from anharm.server.learner import System, build_system
from anharm.server.memory_check import Command, available_memory, memory_needed
from anharm.server.preflight import is_in_use, prepare
from anharm.wire.addresses import parse_address

_STAGES = {
    "construction": "construction of the expansion",
    "evaluation": "compiled monomials, neighbours",
    "design_rows": "design rows of one structure",
    "kept_rows": "design rows of earlier labels",
    "statistics": "sufficient statistics",
    "refit": "matrices of a refit",
    "model_file": "model file",
    "force_errors": "force errors of a client",
    "process": "each process, doing nothing",
}
_TOTALS = {
    "fit": "together, for `anharm fit`",
    "run": "together, for `anharm run`",
}


def make_plan(configuration: RunConfiguration) -> dict[str, Any]:
    """Parameters per order, memory, cost per step, and whether everything is there.

    Raises
    ------
    AnharmError
        If crystal or expansion cannot be used.
    """
    command: Command = "fit" if configuration.engine is None else "run"
    system = build_system(configuration, command)
    expansion, supercell = system.expansion, system.supercell
    n_parameters = expansion.n_parameters
    n_components = 3 * supercell.n_atoms
    n_unconstrained = sum(expansion.unconstrained_per_order.values())
    limit = configuration.crystal.maximum_displacement
    found: dict[str, Any] = {
        "space_group": expansion.space_group,
        "atoms": supercell.n_atoms,
        "cutoffs": {str(n): c for n, c in expansion.cutoffs.items()},
        "second_order_of_whole_supercell": expansion.second_order_cell is not None,
        "rotational_sum_rules": configuration.expansion.rotational_sum_rules,
        "parameters": {str(n): m for n, m in expansion.parameters_per_order.items()},
        "parameters_total": n_parameters,
        "parameters_before_sum_rules": {
            str(n): m for n, m in expansion.unconstrained_per_order.items()
        },
        "labels_to_determine_all": int(np.ceil(n_parameters / max(1, n_components - 3))),
        "largest_cutoff_that_fits": round(_largest_cutoff(supercell), 4),
        "maximum_displacement": round(limit or default_maximum_displacement(supercell), 4),
        "memory": _memory(system, command, configuration.training.budget),
        "monomials_per_cell": len(expansion.monomials.orders),
        "megaflop_per_force_evaluation": round(
            6e-6 * len(expansion.monomials.orders) * supercell.n_cells, 3
        ),
        "megaflop_per_error_evaluation": round(
            2e-6 * n_components * n_unconstrained * n_parameters, 3
        ),
    }
    if configuration.engine is not None and configuration.reference is not None:
        found["reachability"] = _reachability(configuration)
    return found


def _memory(system: System, command: Command, n_labels: int) -> dict[str, Any]:
    """Peak memory of every stage and of all processes together, and what this machine has."""
    size = ExpansionSize.of(system.expansion)
    memory = estimate_memory(size, system.supercell.n_atoms, n_labels)
    return {
        "stages_mb": {name: _megabytes(getattr(memory, name)) for name in _STAGES},
        "command": command,
        "needed_mb": _megabytes(memory_needed(memory, command)),
        "available_mb": _megabytes(available_memory()),
    }


def _megabytes(number: int) -> float:
    return round(number / 1e6, 3)


def _largest_cutoff(supercell: Supercell) -> float:
    """Look further and further until a pair of atoms is found in range twice."""
    radius = 1.01 * supercell.half_width
    while not np.isfinite(limit := largest_fitting_cutoff(supercell, radius)):
        radius *= 1.2
    return limit


def _reachability(configuration: RunConfiguration) -> dict[str, str]:
    """What a run needs: inputs that agree, executables, free addresses."""
    assert configuration.reference is not None
    try:
        preparation = prepare(configuration)
    except AnharmError as error:
        return {"inputs": f"not ready: {error}"}
    commands = [preparation.engine_executable, *(c[0] for c in preparation.reference_commands)]
    result = {
        "inputs": "consistent",
        "executables": ", ".join(dict.fromkeys(commands)),
    }
    for name, text in {
        **{
            f"i-PI ({t.name})" if len(preparation.trajectories) > 1 else "i-PI": t.address
            for t in preparation.trajectories
        },
        "reference": configuration.reference.address,
        "broker": configuration.run.broker_endpoint.replace("ipc://", "unix:"),
    }.items():
        state = "in use" if is_in_use(parse_address(text)) else "free"
        result[f"address of {name}"] = f"{text} ({state})"
    return result


def format_plan(found: dict[str, Any]) -> str:
    """The plan as text."""
    lines = [
        f"space group {found['space_group']}, {found['atoms']} atoms",
        "",
        "order   cutoffs by bodies (A)             parameters   before sum rules",
    ]
    for order, count in found["parameters"].items():
        cutoffs = ", ".join(f"{n}: {c:g}" for n, c in found["cutoffs"][order].items())
        cutoffs = "forces on the ideal sites" if order == "1" else cutoffs
        if order == "2" and found["second_order_of_whole_supercell"]:
            cutoffs = "all pairs of the supercell"
        before = found["parameters_before_sum_rules"][order]
        lines.append(f"{order:<7s} {cutoffs:<33s} {count:>10d}   {before:>16d}")
    lines += [
        f"{'total':<41s} {found['parameters_total']:>10d}",
        f"rotational sum rules of order 2      {'on' if found['rotational_sum_rules'] else 'off'}",
        "",
        f"labels to determine all parameters   {found['labels_to_determine_all']} at least",
        f"largest cutoff that fits             {found['largest_cutoff_that_fits']} A",
        f"an atom may move                     {found['maximum_displacement']} A from its site",
        f"cost of forces                       {found['megaflop_per_force_evaluation']} Mflop",
        f"cost of force errors                 {found['megaflop_per_error_evaluation']} Mflop",
    ]
    memory = found["memory"]
    lines += ["", "peak memory, estimated (MB)"]
    lines += [f"  {_STAGES[name]:<34s} {mb:>9.1f}" for name, mb in memory["stages_mb"].items()]
    lines += [
        f"  {_TOTALS[memory['command']]:<34s} {memory['needed_mb']:>9.1f}",
        f"  {'available on this machine':<34s} {memory['available_mb']:>9.1f}",
        "",
    ]
    for name, state in found.get("reachability", {}).items():
        lines.append(f"{name:<36s} {state}")
    return "\n".join(lines)
