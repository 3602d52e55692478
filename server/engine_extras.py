"""Which extras an i-PI input wants, so that no others need to be computed."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from anharm.extras import EXTRAS


def extras_wanted(path: Path) -> tuple[str, ...]:
    """Extras of lattice clients that an i-PI input names, in whatever element or attribute.

    <trajectory> has them in `extra_type`, as they are or behind `committee_` where i-PI's own
    committee renames them; <interpolate_extras> has them as text.

    Parameters
    ----------
    path : Path
        An i-PI input that `read_engine_input` has accepted.
    """
    texts: list[str] = []
    for element in ElementTree.parse(path).getroot().iter():
        texts += [*element.attrib.values(), element.text or ""]
    return tuple(name for name in EXTRAS if any(_names(name, text) for text in texts))


def _names(name: str, text: str) -> bool:
    return name in text and re.search(rf"(?<![a-z]){name}(?![a-z_])", text) is not None
