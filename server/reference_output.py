"""What a reference code printed while it calculated: some only say there that they failed.

ABINIT and CP2K send the forces of an SCF that did not converge without a word on the socket.
The output is found through the process at the other end of a UNIX socket, or named by the user.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

logger = logging.getLogger(__name__)

NOT_CONVERGED = {
    "pw.x": r"convergence NOT achieved",
    "ABINIT": r"was not enough SCF cycles to converge",
    "CP2K": r"SCF run NOT converged",
}
"""What codes print where an SCF has not converged, as regular expressions."""

BREAKDOWN = r"^\s*(Error in routine|(\S+: )?ERROR\b|--- !ERROR|\*+ ?ABORT)|\[ABORT\]"
"""How codes announce that they give up, with the reason in the next line or the same."""

LONGEST_OUTPUT = 16 << 20
"""Bytes of output of one calculation that are looked at: its last ones."""
_LONGEST_LINE = 300
_GENERATIONS = 4  # an MPI rank, mpirun, a shell script, and one more
_FORWARDING_SECONDS = 0.3


class ReferenceOutput:
    """The output of one client, looked at for complaints.

    Parameters
    ----------
    patterns : sequence of str
        Regular expressions of lines that make an answer worthless.
    files : sequence of Path
        Files to look at, which need not exist yet.
    process : int, optional
        The client's process on this host, whose standard output is looked at too.
    """

    def __init__(
        self, patterns: Sequence[str], files: Iterable[Path] = (), process: int | None = None
    ) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._files = list(dict.fromkeys(files))
        self._is_forwarded = False
        if self._patterns and process is not None:
            file, self._is_forwarded = standard_output(process)
            if file is not None and file not in self._files:
                self._files.append(file)
        self._marks: dict[Path, int] = {}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are looked at."""
        return tuple(self._files)

    def mark(self) -> None:
        """Remember where each file ends: a calculation begins."""
        self._marks = {file: _size(file) for file in self._files}

    def complaints(self) -> list[str]:
        """Return the lines since the mark that make the answer worthless, with their file."""
        if not self._patterns:
            return []
        return [
            _quote(line, file)
            for file, lines in self._news()
            for line in lines
            if any(pattern.search(line) for pattern in self._patterns)
        ]

    def last_words(self) -> list[str]:
        """Return why the client broke down, as far as its output since the mark says so."""
        complaints = self.complaints()
        if complaints:
            return complaints
        for file, lines in self._news():
            for line, following in pairwise([*lines, ""]):
                if re.search(BREAKDOWN, line):
                    return [_quote(f"{line} {following}".strip(), file)]
        return []

    def _news(self) -> list[tuple[Path, list[str]]]:
        """The lines of each file since the mark."""
        if self._is_forwarded:
            time.sleep(_FORWARDING_SECONDS)  # mpirun passes on the output in its own time
        return [(file, _lines_since(file, self._marks.get(file, 0))) for file in self._files]


def _quote(line: str, file: Path) -> str:
    return f"its output says {line[:_LONGEST_LINE]!r} ({file})"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _lines_since(file: Path, mark: int) -> list[str]:
    """The lines that were written behind the mark; all, if the file was begun anew."""
    size = _size(file)
    start = max(0 if size < mark else mark, size - LONGEST_OUTPUT)
    try:
        with file.open("rb") as stream:
            stream.seek(start)
            content = stream.read(LONGEST_OUTPUT)
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("the output %s of a reference client cannot be read: %s", file, error)
        return []
    lines = (line.strip() for line in content.decode(errors="replace").splitlines())
    return [line for line in lines if line]


def standard_output(process: int) -> tuple[Path | None, bool]:
    """Return the file a process prints to, and whether another process passes it on.

    mpirun and shell scripts collect the output of their children through pipes or terminals of
    their own, so the search goes on with the parent. Without Linux's /proc nothing is found.
    """
    passed_on_from = ""
    for _ in range(_GENERATIONS):
        link = Path(f"/proc/{process}/fd/1")
        try:
            target = os.readlink(link)
            kind = link.stat().st_mode
        except OSError:
            return None, False  # gone, of another user, or not Linux
        if stat.S_ISREG(kind):
            file = Path(target)
            return (file, bool(passed_on_from)) if file.exists() else (None, False)
        parent = _parent(process)
        is_the_users_terminal = stat.S_ISCHR(kind) and target == passed_on_from
        if parent is None or is_the_users_terminal:
            return None, False
        process, passed_on_from = parent, target
    return None, False


def _parent(process: int) -> int | None:
    try:
        # The name in parentheses may hold anything; state and parent follow the last of them.
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    parent = int(words[1])
    return parent if parent > 1 else None


def program_name(process: int) -> str:
    """The name of a process's program, such as "pw.x"; empty where it cannot be known."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""
