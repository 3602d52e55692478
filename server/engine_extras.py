"""Which extras an i-PI input wants, so that no others need to be computed."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from anharm.extras import DEFAULT_EXTRAS, EXTRAS


def extras_wanted(path: Path) -> tuple[str, ...]:
    """Extras of lattice clients that an i-PI input names, in whatever element or attribute.

    <trajectory> has them in `extra_type`, as they are or behind `committee_` where i-PI's own
    committee renames them; <interpolate_extras> has them as text. A <trajectory> of extras of no
    type, or of the type "raw", is the whole text that clients send: it has the usual ones.

    Parameters
    ----------
    path : Path
        An i-PI input that `read_engine_input` has accepted.
    """
    texts: list[str] = []
    for element in ElementTree.parse(path).getroot().iter():
        texts += [*element.attrib.values(), element.text or ""]
        if _is_raw(element):
            texts += DEFAULT_EXTRAS
    return tuple(name for name in EXTRAS if any(_names(name, text) for text in texts))


def _is_raw(element: ElementTree.Element) -> bool:
    is_of_extras = element.tag == "trajectory" and (element.text or "").strip() == "extras"
    return is_of_extras and element.get("extra_type", "raw").strip() == "raw"


def _names(name: str, text: str) -> bool:
    return name in text and re.search(rf"(?<![a-z]){name}(?![a-z_])", text) is not None
