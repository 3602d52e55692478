"""Fixtures that start the real programs on the other side of our sockets."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from anharm.wire.addresses import SocketAddress, parse_address

I_PI = Path(sys.executable).parent / "i-pi"

# A background job of a script starts with Ctrl-C ignored, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def address() -> Iterator[SocketAddress]:
    """The address of a UNIX socket that no other test uses."""
    address = parse_address(f"unix:anharm-test-{uuid4().hex}")
    yield address
    Path(address.path).unlink(missing_ok=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start programs in the folder of the test; they are gone when the test ends."""
    processes: list[subprocess.Popen] = []

    def start_program(*command: object, **options: object) -> subprocess.Popen:
        log = (tmp_path / f"{Path(str(command[0])).name}-{len(processes)}.log").open("w")
        process = subprocess.Popen(
            [str(word) for word in command],
            **{"cwd": tmp_path, "stdout": log, "stderr": subprocess.STDOUT, **options},
        )
        log.close()
        processes.append(process)
        return process

    yield start_program
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def start_ipi(start: Callable[..., subprocess.Popen]) -> Callable[..., subprocess.Popen]:
    """Start i-PI on an input file."""
    return lambda name: start(I_PI, name)


@pytest.fixture
def require_program() -> Callable[[str], str]:
    """Find a program of a system package, or skip the test.

    With ANHARM_REQUIRE_SYSTEM_PACKAGES=1, as in continuous integration, a missing one fails.
    """

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            reason = f"{name} is not installed"
            if os.environ.get("ANHARM_REQUIRE_SYSTEM_PACKAGES") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return find
