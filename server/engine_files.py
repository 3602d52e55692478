"""The files that an i-PI input names, to be copied with it."""

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from anharm.errors import ConfigurationError

LONGEST_TEXT = 2_000  # characters of an element in which names of files are looked for


def referenced_files(path: Path, root: Element) -> tuple[Path, ...]:
    """Return every existing file that a text or an attribute names, relative to the folder.

    i-PI has many elements that name files (structures, PLUMED inputs, thermostat matrices,
    potentials); looking for the files themselves finds them all.
    """
    names: dict[str, None] = {}
    for element in root.iter():
        texts = [*element.attrib.values(), *([element.text] if element.text else [])]
        for text in texts:
            if len(text) <= LONGEST_TEXT:
                names.update(dict.fromkeys(re.split(r"[\s,\[\]{}:'\"]+", text)))
    files = []
    for name in filter(None, names):
        relative = Path(name)
        if relative.is_absolute() or not (path.parent / relative).is_file():
            continue
        if ".." in relative.parts:
            raise ConfigurationError(
                f"{path}: the file {name} lies outside the folder of the i-PI input, which is "
                "copied into the run's directory: move it beside the input, or give its full path"
            )
        files.append(relative)
    return tuple(files)
