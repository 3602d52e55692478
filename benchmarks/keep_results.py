"""Keep what is small of a finished run: settings, labels, last model, summary.

    python benchmarks/keep_results.py inputs/bas/run.toml results/bas/chgnet-300K

Writes `run.toml` ([crystal] and [expansion] of the run, and its crystal beside it), `labels.xyz.gz`
in the order in which they were learnt, `summary.txt` and, below 1 MB, `model.h5`.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from pathlib import Path

from anharm.configuration import load_configuration
from anharm.server.engine_input import read_engine_input
from anharm.server.record import Record
from anharm.server.record_export import write_extended_xyz
from anharm.server.summary import format_summary, summarise

LARGEST_MODEL = 1_000_000  # bytes
PLACES = ("record ", "models ", "logs ", "i-PI's own output")


def labels_table(record: Record) -> list[str]:
    """One line per label: why it was taken, and what the model had said of it."""
    lines = ["label  step   reason                    force RMSE before (eV/A)  seconds"]
    for label in record.labels():
        step = "" if label.request.step is None else label.request.step
        reason = label.request.reason.split(" at step")[0]
        said = "" if label.prediction is None else f"{label.prediction.force_rmse:.4f}"
        lines.append(
            f"{label.id:5d}  {step!s:>5}  {reason:24s}  {said:>23}  {label.answer.seconds:8.1f}"
        )
    return lines


def main() -> None:
    """Copy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run.toml of a run that has ended")
    parser.add_argument("output", type=Path, help="folder")
    words = parser.parse_args()
    run = load_configuration(words.run)
    directory = Path(run.run.directory)
    words.output.mkdir(parents=True, exist_ok=True)
    shutil.copy(run.crystal.primitive, words.output / "primitive.xyz")
    head = run.text[run.text.index("[crystal]") : run.text.index("[engine]")]
    head = head.replace(f"{run.crystal.primitive.parent.name}/primitive.xyz", "primitive.xyz")
    (words.output / "run.toml").write_text(head.rstrip() + "\n")
    symbols = read_engine_input(run.engine.input[0]).structure.get_chemical_symbols()
    with Record.open(directory, read_only=True) as record:
        xyz = words.output / "labels.xyz"
        write_extended_xyz(xyz, record.labels(), symbols)
        table = labels_table(record)
        model = directory / record.models()[-1].path
    with gzip.GzipFile(words.output / "labels.xyz.gz", "wb", mtime=0) as packed:
        packed.write(xyz.read_bytes())
    xyz.unlink()
    summary = summarise(directory, run.training.window)
    lines = format_summary(summary, directory, run.training.rule).splitlines()
    lines = [line for line in lines if not line.startswith(PLACES)]
    (words.output / "summary.txt").write_text("\n".join([*lines, "", *table]) + "\n")
    if model.stat().st_size < LARGEST_MODEL:
        shutil.copy(model, words.output / "model.h5")


if __name__ == "__main__":
    main()
