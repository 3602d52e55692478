"""What the broker sends arrives, or the broker knows that it does not."""

import subprocess
import sys
import time

import pytest
import zmq

from anharm.server.broker_socket import LONGEST_QUEUE, broker_socket, send_to
from anharm.wire.broker_connection import connect_to_broker

PATIENCE = 20_000  # milliseconds
ROUNDS = 20_000


@pytest.fixture
def pair(tmp_path):
    """The broker's socket, a client's, and the client's address."""
    endpoint = f"ipc://{tmp_path / 'broker'}"
    context = zmq.Context()
    with broker_socket(endpoint, None, 1000) as router:
        dealer = connect_to_broker(context, endpoint, None, largest_frame=1000)
        dealer.send(b"here I am")
        assert router.poll(PATIENCE)
        yield router, dealer, router.recv_multipart()[0]
        dealer.close(linger=0)
    context.term()


def test_every_answer_reaches_a_client_that_asks_at_once_again(pair):
    """The broker does not look for anything else between its answers."""
    router, dealer, address = pair
    for number in range(ROUNDS):
        assert send_to(router, address, zmq.Frame(b"%d" % number)) == "sent"
        assert dealer.poll(PATIENCE), f"answer {number} was lost"
        assert dealer.recv() == b"%d" % number


def test_a_client_that_does_not_read_is_noticed(pair):
    router, _, address = pair
    most = 10**6
    sent = 0
    while send_to(router, address, zmq.Frame(bytes(1000))) == "sent":
        sent += 1
        assert sent < most
    assert sent >= LONGEST_QUEUE


def test_a_client_that_has_gone_is_noticed(pair):
    router, dealer, address = pair
    dealer.close(linger=0)
    deadline = time.monotonic() + PATIENCE / 1000
    while send_to(router, address, zmq.Frame(b"anybody there?")) != "gone":
        assert time.monotonic() < deadline
        router.poll(10)


MUTE_CLIENT = """
import sys, time, zmq
from anharm.wire.broker_connection import connect_to_broker
socket = connect_to_broker(zmq.Context(), sys.argv[1], None, largest_frame=1000)
socket.send(b"here I am")
sys.stdin.read()
"""


@pytest.mark.long
def test_a_client_that_does_not_read_survives_the_end_of_the_broker(tmp_path):
    """It did not while ZeroMQ's heartbeat fell due every 15 s."""
    endpoint = f"ipc://{tmp_path / 'broker'}"
    words = [sys.executable, "-c", MUTE_CLIENT, endpoint]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as client:
        with broker_socket(endpoint, None, 1000) as router:
            assert router.poll(PATIENCE)
            address = router.recv_multipart()[0]
            while send_to(router, address, zmq.Frame(bytes(1000))) == "sent":
                pass
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(20)
        client.communicate()
    assert client.returncode == 0
