"""The journal of observations: each is in a file before the broker answers it.

Those of one message are appended with one `write`, without waiting for the disk: what the kernel
has survives the death of the process, and `sync`, called about once per second, bounds what a loss
of power can take. The record's database takes over many entries at once, and the journal begins
again.

Layout of an entry, little-endian: length of the rest (uint16), CRC-32 of the rest (uint32), then
number and step (uint64), configuration (8 bytes), maximum, mean, rms (float32), energy (float64),
model version (uint32), and the trajectory's name in UTF-8. A frame that was cut off ends the
journal; what follows a damaged one is not trusted.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from anharm.model.crystal import FloatArray
from anharm.wire.messages import DIGEST_BYTES

JOURNAL_NAME = "observations.journal"

_FRAME = struct.Struct("<HI")
_ENTRY = struct.Struct(f"<QQ{DIGEST_BYTES}sfffdI")


class JournalEntry(NamedTuple):
    """One evaluation as the record keeps it.

    Attributes
    ----------
    number : int
        Counts the evaluations of a run, repeated ones included.
    trajectory : str
    step : int
    configuration : bytes
        Digest of the configuration that was evaluated.
    maximum, mean, rms : float
        Bayesian force errors, eV/Angstrom, to single precision.
    energy : float
        eV.
    model_version : int
    """

    number: int
    trajectory: str
    step: int
    configuration: bytes
    maximum: float
    mean: float
    rms: float
    energy: float
    model_version: int


@dataclass(frozen=True, eq=False)
class JournalBlock:
    """Evaluations of steps in a row by one model, as they are written.

    Attributes
    ----------
    number, step : int
        Of the first of them.
    trajectory : str
    configurations : sequence of bytes
        Digests.
    values : (n, 4) float
        Largest, mean and rms force error (eV/Angstrom), energy (eV).
    model_version : int
    """

    number: int
    trajectory: str
    step: int
    configurations: Sequence[bytes]
    values: FloatArray
    model_version: int

    def __len__(self) -> int:
        return len(self.configurations)

    @property
    def entries(self) -> list[JournalEntry]:
        """Them one by one."""
        name, version = self.trajectory, self.model_version
        rows = zip(self.configurations, self.values.tolist(), strict=True)
        return [
            JournalEntry(
                self.number + n, name, self.step + n, digest, most, mean, rms, energy, version
            )
            for n, (digest, (most, mean, rms, energy)) in enumerate(rows)
        ]

    def encode(self) -> bytes:
        """Their frames."""
        name, version = self.trajectory.encode(), self.model_version
        length, rows = _ENTRY.size + len(name), self.values.tolist()
        frames: list[bytes] = []
        for n, (digest, row) in enumerate(zip(self.configurations, rows, strict=True)):
            content = _ENTRY.pack(self.number + n, self.step + n, digest, *row, version) + name
            frames += (_FRAME.pack(length, crc32(content)), content)
        return b"".join(frames)


class ObservationJournal:
    """The journal of the process that writes it.

    Parameters
    ----------
    path : Path
        Made if it is not there. What a kill has cut off at its end is removed.
    """

    def __init__(self, path: Path) -> None:
        self._read, length = read_journal(path)
        self._blocks: list[JournalBlock] = []
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, length)
        self._is_synced = False

    def __len__(self) -> int:
        return len(self._read) + sum(map(len, self._blocks))

    @property
    def entries(self) -> list[JournalEntry]:
        """All that it holds, oldest first."""
        return [*self._read, *(entry for block in self._blocks for entry in block.entries)]

    def append(self, blocks: Sequence[JournalBlock]) -> None:
        """Write evaluations; the death of this process does not lose them any more.

        Raises
        ------
        OSError
            If there is no room; none of them is in the journal then.
        """
        frames = b"".join([block.encode() for block in blocks])
        start = os.lseek(self._file, 0, os.SEEK_END)
        try:
            written = os.write(self._file, frames)
            if written < len(frames):
                os.write(self._file, frames[written:])  # says why there is no room
        except OSError:
            os.ftruncate(self._file, start)
            raise
        self._blocks += blocks
        self._is_synced = False

    def sync(self) -> None:
        """Wait until the disk has all entries; a loss of power does not lose them any more."""
        if not self._is_synced:
            os.fsync(self._file)
            self._is_synced = True

    def clear(self) -> None:
        """Begin again; the entries are elsewhere now."""
        os.ftruncate(self._file, 0)
        self._read, self._blocks = [], []

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_journal(path: Path) -> tuple[list[JournalEntry], int]:
    """Return the whole entries of a journal and the number of bytes that they take."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    entries: list[JournalEntry] = []
    end = 0
    while (entry := _entry_at(content, end)) is not None:
        entries.append(entry[0])
        end = entry[1]
    return entries, end


def _entry_at(content: bytes, start: int) -> tuple[JournalEntry, int] | None:
    """The entry that begins at a byte and where it ends; None if it is not whole."""
    if len(content) < start + _FRAME.size:
        return None
    length, checksum = _FRAME.unpack_from(content, start)
    start += _FRAME.size
    body = content[start : start + length]
    if not _ENTRY.size < length <= len(body) or crc32(body) != checksum:
        return None
    number, step, configuration, *numbers = _ENTRY.unpack_from(body)
    name = body[_ENTRY.size :].decode()
    return JournalEntry(number, name, step, configuration, *numbers), start + length
