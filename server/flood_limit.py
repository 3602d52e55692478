"""What peers make us write into a log: printable, short, and not more than a disk can take."""

import logging
import time
from dataclasses import dataclass

LONGEST_TEXT = 1000  # characters


@dataclass
class _Count:
    since: float
    seen: int = 0
    left_out: int = 0


class FloodLimit(logging.Filter):
    """Lets a bounded number of records pass per line of code and period, and says what it left out.

    Parameters
    ----------
    most : int
        Records per line of code and period.
    seconds : float
        Length of a period.
    """

    def __init__(self, most: int = 50, seconds: float = 600.0) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._counts: dict[tuple[str, int], _Count] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write a record; its text is made printable."""
        now = time.monotonic()
        key = (record.pathname, record.lineno)
        count = self._counts.setdefault(key, _Count(now))
        text = printable(record.getMessage())
        if now - count.since > self._seconds:
            if count.left_out:
                text += f" ({count.left_out} similar messages before it were left out)"
            self._counts[key] = count = _Count(now)
        count.seen += 1
        if count.seen > self._most:
            count.left_out += 1
            return False
        if count.seen == self._most:
            text += f" (more of this kind are left out for {self._seconds:.0f} s)"
        record.msg, record.args = text, None
        return True


def printable(text: str) -> str:
    """Return a text in one line, without control characters, and not too long."""
    shown = text[:LONGEST_TEXT]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if len(text) <= LONGEST_TEXT else f"{shown}... ({len(text)} characters)"
