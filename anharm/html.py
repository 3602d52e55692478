"""HTML as nested calls, in which every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_EMPTY = ("br", "hr", "meta")


class Html(str):
    """Text that is HTML already."""


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """One element; attributes with a trailing underscore lose it (`class_`).

    Children that are no `Html` are shown as text, whatever they contain.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    if name in _EMPTY:
        return Html(f"<{name}{words}>")
    return Html(f"<{name}{words}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Html:
    """Children one after the other."""
    return Html("".join(c if isinstance(c, Html) else escape(str(c)) for c in children))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], numeric: str = "") -> Html:
    """A table that scrolls on narrow screens.

    Parameters
    ----------
    head : sequence
    rows : iterable of sequences
    numeric : str
        "r" at the place of each column that is aligned to the right.
    """
    kinds = ["number" if kind == "r" else "text" for kind in numeric.ljust(len(head))]
    cells = [element("th", title, class_=kind) for title, kind in zip(head, kinds, strict=True)]
    body = [
        element(
            "tr",
            *(element("td", v, class_=kind) for v, kind in zip(row, kinds, strict=True)),
        )
        for row in rows
    ]
    whole = element("table", element("thead", element("tr", *cells)), element("tbody", *body))
    return element("div", whole, class_="wide")
