"""i-PI as installed, with one fault cured: it survives clients that die.

i-PI 3.3.1 takes a reset of a connection, which is what a client killed in mid-calculation leaves
behind, for an error of its own: the thread that serves its sockets ends, and the run hangs for
ever. Here a reset counts as the end of the connection, and i-PI gives the configuration to the
next client.
"""

import os
import runpy
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipi.interfaces import sockets

from anharm.errors import ConfigurationError


def run_engine(arguments: Sequence[str]) -> None:
    """Run i-PI in this process, as its own command would.

    Parameters
    ----------
    arguments : sequence of str
        What i-PI is to be given, such as the name of its input.

    Raises
    ------
    ConfigurationError
        If i-PI's command is not installed.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    script = shutil.which("i-pi", path=path)
    if script is None:
        raise ConfigurationError(
            "i-PI's command i-pi was not found beside this Python nor in PATH; reinstall the "
            "package ipi"
        )
    count_resets_as_disconnections()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)  # i-PI has its own way of ending
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def count_resets_as_disconnections() -> None:
    """Let i-PI's sockets report a reset as what i-PI takes for the end of a connection."""

    def receive(self: Any, *arguments: Any) -> int:
        try:
            return int(super(sockets.DriverSocket, self).recv_into(*arguments))
        except ConnectionError:
            return 0

    sockets.DriverSocket.recv_into = receive
