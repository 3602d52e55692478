"""A labelling server and what it has reported."""

from collections.abc import Callable, Iterator
from select import select
from time import monotonic

import pytest

from anharm.server.labelling import LabellingServer

PATIENCE = 60.0
NUMBER_OF_ATOMS = 8


class Dispatcher:
    """A labelling server and every event that it has reported."""

    def __init__(self, address, **options) -> None:
        defaults = {"number_of_atoms": NUMBER_OF_ATOMS, "time_limit": PATIENCE, "attempts": 3}
        self.server = LabellingServer(address, **{**defaults, **options})
        self.server.start()
        self.log: list = []

    def wait_for(self, kind: type, count: int = 1, patience: float = PATIENCE) -> list:
        deadline = monotonic() + patience
        while len(found := [event for event in self.log if isinstance(event, kind)]) < count:
            remaining = deadline - monotonic()
            assert remaining > 0, f"no {kind.__name__} among {self.log}"
            if select([self.server], [], [], remaining)[0]:
                self.log += self.server.events()
        return found


@pytest.fixture
def dispatch(address) -> Iterator[Callable[..., Dispatcher]]:
    """Start a labelling server; it closes within seconds when the test ends."""
    servers: list[Dispatcher] = []

    def start_server(**options) -> Dispatcher:
        servers.append(Dispatcher(options.pop("address", address), **options))
        return servers[-1]

    yield start_server
    for dispatcher in servers:
        start = monotonic()
        dispatcher.server.close()
        assert monotonic() - start < 10
