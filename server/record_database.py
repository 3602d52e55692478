"""The record's SQLite file: opened, locked against a second broker, and written safely."""

import fcntl
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from anharm.errors import ConfigurationError, RunFailed
from anharm.server.record_schema import SCHEMA, SCHEMA_VERSION

FILE_NAME = "record.sqlite"
LOCK_NAME = "record.lock"


class Database:
    """A SQLite database in WAL mode that one process writes and any may read.

    Every statement may come from any thread. `OSError` and SQLite's errors leave as
    RunFailed with a sentence that names the file.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock_file: IO[str] | None
    ) -> None:
        self.path = path
        self._connection = connection
        self._lock_file = lock_file
        self._mutex = threading.RLock()

    @contextmanager
    def transaction(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Run statements as one transaction, committed on leaving the block.

        A durable transaction is on the disk when the block ends, and survives a loss of
        power; any other survives the death of the process.
        """
        with self._mutex, translated(self.path):
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Return all rows of a query as dictionaries."""
        with self._mutex, translated(self.path):
            return [dict(row) for row in self._connection.execute(statement, values)]

    def close(self) -> None:
        """Close the file and let another broker have it."""
        with self._mutex, translated(self.path):
            self._connection.close()
        if self._lock_file is not None:
            self._lock_file.close()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of files and of SQLite into one sentence."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.DatabaseError, OSError) as error:
        raise RunFailed(f"the record {path} cannot be used: {error}. {_advice(error, path)}") from (
            error
        )


def _advice(error: Exception, path: Path) -> str:
    text = str(error)
    if "full" in text or getattr(error, "errno", None) == 28:
        try:
            free = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free there; "
        except OSError:
            free = ""
        return f"{free}make room and continue with --resume: nothing committed is lost"
    if "readonly" in text or isinstance(error, PermissionError):
        return "Choose a run.directory that you may write to"
    if "not a database" in text or "malformed" in text:
        return "The file is damaged: restore a copy, or start in another run.directory"
    return "Check the folder; run.directory should be on a local disk"


def create_database(directory: Path) -> Database:
    """Create the record of a new run in a directory, made if need be.

    Raises
    ------
    ConfigurationError
        If the directory holds a record already.
    RunFailed
        If it cannot be written, or another broker is using it.
    """
    path = directory / FILE_NAME
    with translated(path):
        directory.mkdir(parents=True, exist_ok=True)
    lock_file = _lock(directory)
    try:
        if path.exists():
            raise ConfigurationError(
                f"{directory} already holds the record of a run: continue it with --resume, or "
                "choose another run.directory"
            )
        with translated(path):
            # Built under another name, so that a file of the final name is always complete.
            unfinished = path.with_suffix(".new")
            unfinished.unlink(missing_ok=True)
            connection = _connect(unfinished)
            connection.executescript(
                f"BEGIN;{SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )
            connection.close()
            unfinished.rename(path)
            return Database(path, _connect(path), lock_file)
    except BaseException:
        lock_file.close()
        raise


def open_database(directory: Path, read_only: bool = False) -> Database:
    """Open the record of an earlier or a running run.

    Raises
    ------
    ConfigurationError
        If there is none, or it was written by another version.
    RunFailed
        If it cannot be used, or is to be written and another broker is using it.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise ConfigurationError(f"{directory} holds no record of a run ({FILE_NAME} is missing)")
    lock_file = None if read_only else _lock(directory)
    try:
        with translated(path):
            connection = _connect(path, read_only)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            connection.close()
            raise ConfigurationError(
                f"{path} has the schema version {version}, this anharm reads {SCHEMA_VERSION}: "
                "use the anharm that wrote it, or export its labels and start a new run"
            )
        return Database(path, connection, lock_file)
    except BaseException:
        if lock_file is not None:
            lock_file.close()
        raise


def _connect(path: Path, read_only: bool = False) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    # The mutex of `Database` serialises the threads, and BEGIN and COMMIT are ours.
    connection = sqlite3.connect(
        uri, uri=True, timeout=30.0, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    if not read_only:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.OperationalError(
                "write-ahead logging is not possible on this file system"
            )
    return connection


def _lock(directory: Path) -> IO[str]:
    """Hold the directory for this process; the system lets go when the process dies."""
    path = directory / LOCK_NAME
    with translated(path):
        file = path.open("a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read(200).strip() or "of unknown number"
        file.close()
        raise RunFailed(
            f"another broker, process {owner}, is using {directory}: wait for it, stop it, or "
            "choose another run.directory"
        ) from error
    except OSError as error:
        file.close()
        raise RunFailed(f"{path} cannot be locked: {error}; use a local disk") from error
    file.truncate(0)
    file.write(f"{os.getpid()} on {os.uname().nodename} since {time.ctime()}\n")
    file.flush()
    return file


def insert(connection: sqlite3.Connection, table: str, **values: object) -> int:
    """Insert a row and return its id; table and columns are names of ours, never of a peer."""
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    cursor = connection.execute(
        f"INSERT INTO {table} ({columns}) VALUES ({marks})",  # noqa: S608
        tuple(values.values()),
    )
    return int(cursor.lastrowid or 0)
