"""`anharm export`: the force constants of a model file for another program."""

from __future__ import annotations

from pathlib import Path

from anharm.errors import ConfigurationError, ModelError
from anharm.model import load_model
from anharm.model.crystal import IntArray, as_supercell_matrix
from anharm.model.export import export_model

_HOW_TO_READ = {
    "phonopy": 'phonopy.load("{folder}/phonopy_params.yaml"), or in that folder: '
    "phonopy-load phonopy_params.yaml",
    "phono3py": 'in {folder}: phono3py.load("phono3py_params.yaml"), or: '
    "phono3py-load phono3py_params.yaml --mesh 11 11 11 --br",
    "shengbte": "in {folder}, after setting ngrid and T in CONTROL: ShengBTE",
}


def export(model_file: Path, file_format: str, output: Path, supercell: str | None) -> str:
    """Write the files, and return what was written and how to read it.

    Raises
    ------
    ConfigurationError
        If the supercell is neither three nor nine integers, or the output is a file.
    ModelError
        If the model cannot be read, or not be written in this format.
    """
    if output.exists() and not output.is_dir():
        raise ConfigurationError(f"--output {output} is a file: name a folder for several files")
    matrix = parse_supercell(supercell) if supercell is not None else None
    paths = export_model(load_model(model_file), file_format, output, matrix)
    names = ", ".join(path.name for path in paths)
    how = _HOW_TO_READ[file_format].format(folder=output)
    return f"written to {output}: {names}\nto read them: {how}"


def parse_supercell(text: str) -> IntArray:
    """A (3, 3) supercell matrix from three or nine integers, rows being the new vectors.

    Raises
    ------
    ConfigurationError
        If the text is something else, or the vectors span no volume.
    """
    try:
        numbers = [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (3, 9):
        raise ConfigurationError(
            f"--supercell {text!r} is neither three nor nine integers; write for example "
            '--supercell "4 4 4" or, row by row, --supercell "-2 2 2 2 -2 2 2 2 -2"'
        )
    rows = numbers if len(numbers) == 3 else [numbers[start : start + 3] for start in (0, 3, 6)]
    try:
        return as_supercell_matrix(rows)
    except ModelError as error:
        raise ConfigurationError(f"--supercell {text!r}: {error}") from error
