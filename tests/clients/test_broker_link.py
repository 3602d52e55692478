"""The lattice client's connections to the broker."""

import time

import zmq

from anharm.clients import broker_link
from anharm.clients.broker_link import BrokerLink
from anharm.server.broker_socket import broker_socket, send_to
from anharm.wire.messages import Alive, Goodbye, Hello, Introduce, Proceed, decode, encode

PATIENCE = 60.0  # seconds


def test_what_the_broker_says_to_the_pulse_does_not_pile_up(tmp_path, monkeypatch):
    """A restarted broker asks everyone who says to be alive who that is."""
    monkeypatch.setattr(broker_link, "_ALIVE_SECONDS", 0.01)
    endpoint = f"ipc://{tmp_path / 'broker'}"
    frame = encode(Introduce("x" * 900))
    with broker_socket(endpoint, None, 10_000) as router:
        link = BrokerLink(endpoint, "a", PATIENCE)
        link._introduce()
        address, hello = router.recv_multipart()
        assert isinstance(decode(hello), Hello)
        assert send_to(router, address, zmq.Frame(encode(Proceed(0)))) == "sent"
        assert isinstance(link.join(), Proceed)
        pulse = next_pulse(router, address)
        deadline = time.monotonic() + PATIENCE
        for _ in range(5000):  # more than the queues and the kernel take
            while send_to(router, pulse, zmq.Frame(frame)) != "sent":
                assert time.monotonic() < deadline, "the pulse does not read"
                router.poll(10)
                if router.poll(0):
                    router.recv_multipart()
        link.leave()
        while not isinstance(decode(router.recv_multipart()[1]), Goodbye):
            pass


def next_pulse(router: zmq.Socket[bytes], conversation: bytes) -> bytes:
    """The address from which the client says that it is alive."""
    while True:
        assert router.poll(PATIENCE * 1000)
        address, frame = router.recv_multipart()
        if address != conversation and isinstance(decode(frame), Alive):
            return address
