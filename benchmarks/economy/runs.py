"""Real runs: `anharm run` with i-PI, the broker and a reference client, one per rule and seed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
from economy.materials import Material
from economy.offline import COUNTS, Evaluator

from anharm.model import load_model
from anharm.server.record import ModelVersion, Record


def _every(interval: int) -> dict[str, Any]:
    """What [training] says to label one step in so many, whatever its error."""
    once = {"threshold": 1e-9, "minimum_interval": interval}
    return {"rule": "fixed", "audit_interval": 0, **once}


# What each way of choosing labels says in [training], and the part of the material's steps it runs.
RULES: dict[str, tuple[dict[str, Any], float]] = {
    "average": ({}, 1.0),  # the defaults: thermal initial labels, 3 times the trajectory average
    "average, uncorrelated start": ({"initial_sampling": "gaussian", "audit_interval": 50}, 0.2),
    "fixed": ({"rule": "fixed", "audit_interval": 0}, 0.2),
    "every k-th step": (_every(50), 0.2),
}
BUDGET = {"average": 100}
BUDGET_OF_INTERVAL = 60  # of "every 5th step" and the like, as many as the gold standard has
SMALL_BUDGET = 24  # of the shorter runs, which end when it is spent
XML = """<simulation verbosity='low'>
  <output prefix='run'>
    <properties filename='out' stride='100'> [ step, temperature{{kelvin}} ] </properties>
    <checkpoint filename='checkpoint' stride='500' overwrite='True'/>
  </output>
  <total_steps> {steps} </total_steps>
  <prng><seed> {seed} </seed></prng>
  <ffsocket name='anharm' mode='unix' pbc='False'>
    <address> {address} </address>
    <latency> 1e-5 </latency>
  </ffsocket>
  <system>
    <initialize nbeads='1'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> {temperature} </velocities>
    </initialize>
    <forces><force forcefield='anharm'/></forces>
    <motion mode='dynamics'>
      <fixcom> True </fixcom>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> {timestep} </timestep>
        <thermostat mode='langevin'><tau units='femtosecond'> 100 </tau></thermostat>
      </dynamics>
    </motion>
    <ensemble><temperature units='kelvin'> {temperature} </temperature></ensemble>
  </system>
</simulation>
"""


def interval_of(way: str) -> int | None:
    """The number in "every 10th step"; None for other ways of choosing labels."""
    found = re.fullmatch(r"every ([1-9]\d*)th step", way)
    return int(found[1]) if found else None


def train(
    material: Material, rule: str, seed: int, folder: Path, evaluator: Evaluator
) -> dict[str, Any]:
    """One run, and the errors of its models.

    Returns
    -------
    dict
        `curve` as (labels, force RMSE); `coverage` of the last model; `converged`: labels, step and
        RMSE when training was first declared converged, or None; `steps` made; `unstable`: whether
        an atom left its site; `ended`: why the run ended.
    """
    run_file = _prepare(material, rule, seed, folder)
    log = folder / "run.log"
    with log.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "anharm", "run", str(run_file)],
            stdout=output,
            stderr=output,
            check=False,
        )
    with Record.open(folder / "run", read_only=True) as record:
        versions, known = record.models(), record.metadata()
        declared = _first_declaration(record)
        steps = sum(len(chunk.maximum) for chunk in record.observations())
    failure = known.get("failure", "")
    is_unstable = "left the region" in failure
    if done.returncode and not is_unstable and "labels is spent" not in failure:
        raise SystemExit(f"{rule}, seed {seed} failed: {log.read_text()[-1500:]}")
    curve = [
        (len(one.labels), evaluator.rmse(load_model(folder / "run" / one.path)))
        for one in versions
        if len(one.labels) in COUNTS or one is versions[-1]
    ]
    found: dict[str, Any] = {
        "curve": curve,
        "coverage": evaluator.coverage(load_model(folder / "run" / versions[-1].path)),
        "converged": None,
        "steps": steps,
        "unstable": is_unstable,
        "ended": known.get("failure") or known.get("ended", ""),
    }
    if declared:
        step, version = declared
        rmse = evaluator.rmse(load_model(folder / "run" / version.path))
        found["converged"] = {"step": step, "labels": len(version.labels), "rmse": rmse}
    return found


def _first_declaration(record: Record) -> tuple[int, ModelVersion] | None:
    """Step at which training was first declared converged, and the model that it had then."""
    for event in record.events():
        if found := re.match(r"training converged at step (\d+)", event.text):
            earlier = [model for model in record.models() if model.created <= event.time]
            return int(found[1]), earlier[-1]
    return None


def _prepare(material: Material, rule: str, seed: int, folder: Path) -> Path:
    """Inputs of one run in a fresh folder; returns run.toml."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if interval := interval_of(rule):
        changes, budget = _every(interval), BUDGET_OF_INTERVAL
        part = min(1.0, interval * budget / material.steps)
    else:
        (changes, part), budget = RULES[rule], BUDGET.get(rule, SMALL_BUDGET)
    training = {"seed": seed, "budget": budget, **changes}
    if rule == "fixed":
        training["threshold"] = material.threshold
    shutil.copyfile(material.primitive, folder / "primitive.xyz")
    ideal = material.ideal()
    angles = " ".join(f"{value:.10f}" for value in ideal.cell.cellpar())
    ase.io.write(
        folder / "init.xyz",
        ideal,
        format="xyz",
        comment=f"# CELL(abcABC): {angles} positions{{angstrom}} cell{{angstrom}}",
        fmt="%22.12f",
    )
    steps = round(part * material.steps)
    address = f"economy-{os.getpid()}-{seed}"
    (folder / "input.xml").write_text(
        XML.format(
            steps=steps,
            seed=31415 + seed,
            address=address,
            temperature=material.temperature,
            timestep=material.timestep,
        )
    )
    run_file = folder / "run.toml"
    cutoffs = ", ".join(
        f"{order} = {json.dumps(value)}" for order, value in material.cutoffs.items()
    )
    sections = {
        "crystal": {"primitive": "primitive.xyz", "supercell": material.supercell},
        "engine": {"input": "input.xml"},
        "training": training,
        "reference": {"connection_limit": 600},
        "reference.calculator": {"name": material.calculator},
        "run": {"directory": "run", "connection_limit": 600},
    }
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in sections.items()
    )
    parameters = ", ".join(f"{k} = {json.dumps(v)}" for k, v in material.parameters.items())
    text = text.replace("[run]", f"parameters = {{ {parameters} }}\n[run]")
    run_file.write_text(f"[expansion]\ncutoffs = {{ {cutoffs} }}\n{text}")
    return run_file
