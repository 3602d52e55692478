"""What runs on a node: one reference client, from its start until it ends or is told to end.

Parsl sends this function by its name and with simple arguments; nothing else of ours is pickled.
"""

from __future__ import annotations

import os
import time
from typing import TypedDict

_LOOK_SECONDS = 0.3
_END_SECONDS = 5.0


class ClientEnd(TypedDict):
    """How a client ended, in types that any serialisation knows.

    Attributes
    ----------
    code : int
        Exit code; -N for a signal N, 127 if it could not be started.
    how : str
        The same in words.
    words : str
        The end of its output.
    host : str
    seconds : float
    """

    code: int
    how: str
    words: str
    host: str
    seconds: float


def run_client(name: str, command: list[str], folder: str, log: str, stop: str) -> ClientEnd:
    """Run a reference client in its folder until it ends, or a file says that it shall.

    When the process that calls this dies, as it does with its block, Linux ends the client.

    Parameters
    ----------
    name : str
        What messages call it.
    command : list of str
    folder, log : str
        Working directory, and the file that takes its output; on a file system that the launcher
        shares.
    stop : str
        The client is ended when this file exists.
    """
    from pathlib import Path

    from anharm.errors import RunFailed
    from anharm.server.processes import ManagedProcess

    host, begin = os.uname().nodename, time.monotonic()
    try:
        child = ManagedProcess(name, command, Path(folder), Path(log), {"PYTHONUNBUFFERED": "1"})
    except RunFailed as error:
        return ClientEnd(code=127, how=str(error), words="", host=host, seconds=0.0)
    try:
        while not child.wait(_LOOK_SECONDS):
            if os.path.exists(stop):
                child.ask_to_end()
                break
    finally:
        child.end(_END_SECONDS)
    code = child.exit_code
    return ClientEnd(
        code=-9 if code is None else code,
        how=child.how_it_ended,
        words=child.last_error() or child.last_words(),
        host=host,
        seconds=time.monotonic() - begin,
    )
