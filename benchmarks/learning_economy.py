"""Force error against the number of reference calculations, for several ways to choose them.

    python benchmarks/learning_economy.py [--materials si bas] [--seeds 1 2] [--ways ...]
    python benchmarks/learning_economy.py --table

The test set comes from four trajectories of the reference itself. The gold standard learns from
another one (one per seed, its configurations in a random order), `static` from
uncorrelated displacements of the same size, and the others are real runs (i-PI, broker, reference
client), one per seed. "every k-th step" has k = 50; any other k is a way of its own, which has to
be asked for: --ways "every 10th step". What is done already is kept in results/learning-economy/,
and not repeated.
Materials are tables of benchmarks/economy/materials.toml; `--file` takes another file of the same
kind. `--table` prints the table and draws the figure of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from ase import Atoms
from economy.materials import HERE, Material, read_materials
from economy.offline import (
    Evaluator,
    TestSet,
    gold_standard,
    static,
    steps_of_gold_standard,
)
from economy.reference_dynamics import gold_frames, test_frames
from economy.report import GOLD, draw, table
from economy.runs import RULES, interval_of, train

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "learning-economy"
FIGURE = ROOT / "docs" / "figures" / "learning-economy.png"
WAYS = (GOLD, "static", *RULES)


def learn(material: Material, ways: list[str], seeds: list[int], folder: Path) -> None:
    """Compute what is missing, and store each result as soon as it is there."""
    test = test_frames(material, folder / material.name)
    evaluator = Evaluator(material, TestSet.of(material, test))
    file = RESULTS / f"{material.name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    found["test"] = {
        "frames": len(test),
        "rms_force": float(np.sqrt(np.mean(evaluator.test.forces**2))),
        "rms_displacement": float(evaluator.test.displacements.std()),
        "temperature": evaluator.test.temperature,
        "parameters": {str(n): m for n, m in material.expansion().parameters_per_order.items()},
    }
    for way in ways:
        for seed in seeds:
            if str(seed) in found.get(way, {}):
                continue
            started = time.time()
            place = folder / material.name / f"{way.replace(' ', '-').replace(',', '')}-{seed}"
            makers: dict[str, Callable[[], dict[str, Any]]] = {
                "gold standard": lambda s=seed: _gold_standard(
                    material, gold_frames(material, s, folder / material.name), evaluator, s
                ),
                "static": lambda s=seed: {"curve": static(material, evaluator, s)},
            }
            make = makers.get(way, lambda w=way, s=seed, p=place: train(
                material, w, s, p, evaluator
            ))  # fmt: skip
            found.setdefault(way, {})[str(seed)] = _rounded(make())
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, indent=None, separators=(",", ":")) + "\n")
            last = found[way][str(seed)]["curve"][-1]
            print(
                f"{material.name}, {way}, seed {seed}: {last[0]} labels, {last[1]:.4f} eV/A, "
                f"{time.time() - started:.0f} s",
                flush=True,
            )


def _gold_standard(
    material: Material, pool: list[Atoms], evaluator: Evaluator, seed: int
) -> dict[str, Any]:
    """Its learning curve, and whether the model of all its labels is stable."""
    curve = gold_standard(material, pool, evaluator, seed)
    steps = steps_of_gold_standard(material, pool, seed)
    return {"curve": curve, "steps": steps, "unstable": steps < material.steps}


def _rounded(value: Any) -> Any:
    """Numbers with five significant digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value


def _way(text: str) -> str:
    if text not in WAYS and interval_of(text) is None:
        raise argparse.ArgumentTypeError(f'"{text}" is neither of {WAYS} nor "every 10th step"')
    return text


def main() -> None:
    """Learn, or show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=HERE / "materials.toml")
    parser.add_argument("--materials", nargs="+", help="names of tables; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--ways", nargs="+", type=_way, default=list(WAYS), metavar="WAY",
                        help=", ".join(f'"{w}"' for w in (*WAYS, "every 10th step")))  # fmt: skip
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "learning-economy",
                        help="where the reference's dynamics and the runs are kept")  # fmt: skip
    parser.add_argument("--table", action="store_true", help="only show what is there")
    words = parser.parse_args()
    known = read_materials(words.file)
    names = words.materials or list(known)
    if unknown := set(names) - known.keys():
        parser.error(f"{words.file} has no {', '.join(sorted(unknown))}, but {', '.join(known)}")
    if not words.table:
        for name in names:
            learn(known[name], words.ways, words.seeds, words.folder.absolute())
    results = {n: json.loads(f.read_text()) for n in names if (f := RESULTS / f"{n}.json").exists()}
    for name in [name for name, one in results.items() if GOLD not in one]:
        print(f'{name}: no table without its yardstick; run --materials {name} --ways "{GOLD}"')
        del results[name]
    if results:
        found = {way for one in results.values() for way in one if interval_of(way)}
        ways = [*WAYS, *sorted(found, key=lambda way: -(interval_of(way) or 0))]
        print(table(results, ways))
        draw(results, ways, FIGURE)


if __name__ == "__main__":
    main()
