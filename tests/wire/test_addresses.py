"""Addresses name the sockets that i-PI and the DFT codes build, and nothing else."""

import os
import socket
import stat
from pathlib import Path
from threading import Thread
from time import monotonic
from uuid import uuid4

import pytest

from anharm.errors import ConfigurationError, RunFailed
from anharm.wire.addresses import (
    SocketAddress,
    close_listening_socket,
    connect,
    listen,
    parse_address,
)


@pytest.fixture
def address():
    return parse_address(f"unix:anharm-test-{uuid4().hex}")


def test_a_name_becomes_the_path_that_every_code_builds():
    assert parse_address("unix:silicon").path == "/tmp/ipi_silicon"


def test_an_absolute_name_is_the_path_itself():
    assert parse_address("unix:/run/user/1/broker").path == "/run/user/1/broker"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://localhost:31415", "localhost", 31415),
        ("node-17.cluster:4000", "node-17.cluster", 4000),
        ("tcp://[::1]:4000", "::1", 4000),
    ],
)
def test_tcp_addresses(text, host, port):
    assert parse_address(text) == SocketAddress("tcp", host=host, port=port)


@pytest.mark.parametrize("text", ["unix:silicon", "unix:/a/b", "tcp://h:1", "tcp://[::1]:4000"])
def test_an_address_prints_as_it_is_written(text):
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "silicon", "unix:", "unix:a/b", "unix:a\0b", "unix:" + "n" * 120),
        *("host:99999", "http://h:1", "h:", ":5"),
    ],
)
def test_anything_else_is_refused_with_the_text_seen(text):
    with pytest.raises(ConfigurationError) as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


def test_only_the_owner_may_use_a_unix_socket(address):
    listener = listen(address)
    assert stat.S_IMODE(os.stat(address.path).st_mode) == 0o600
    close_listening_socket(listener)
    assert not Path(address.path).exists()


def test_an_address_in_use_is_refused_and_left_alone(address):
    listener = listen(address)
    with pytest.raises(RunFailed, match="in use"):
        listen(address)
    connect(address, 5).close()
    close_listening_socket(listener)


def test_the_socket_file_of_a_dead_process_is_replaced(address):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(address.path)
    dead.close()
    close_listening_socket(listen(address))


def test_a_file_that_is_no_socket_is_never_removed(tmp_path):
    file = tmp_path / "results"
    file.write_text("precious")
    with pytest.raises(RunFailed):
        listen(parse_address(f"unix:{file}"))
    assert file.read_text() == "precious"


@pytest.mark.parametrize("text", ["tcp://0.0.0.0:0", "tcp://[::]:0"])
def test_other_hosts_are_let_in_only_on_request(text):
    with pytest.raises(ConfigurationError, match="authentication"):
        listen(parse_address(text))
    try:
        listener = listen(parse_address(text), allow_remote=True)
    except RunFailed:
        pytest.skip("this host has no IPv6")
    close_listening_socket(listener)


def test_loopback_needs_no_permission():
    listener = listen(parse_address("tcp://127.0.0.1:0"))
    connect(SocketAddress("tcp", host="127.0.0.1", port=listener.getsockname()[1]), 5).close()
    close_listening_socket(listener)


def test_a_client_waits_for_a_server_that_comes_late(address):
    waits: list[str] = []
    listeners: list[socket.socket] = []

    def start_server_at_the_second_attempt(seconds: float, reason: str) -> None:
        waits.append(reason)
        if len(waits) == 2:
            listeners.append(listen(address))

    connect(address, 30, start_server_at_the_second_attempt).close()
    assert len(waits) == 2 and "no such file" in waits[0]
    close_listening_socket(listeners[0])


def test_an_absent_server_is_reported_in_the_words_of_the_user(address):
    start = monotonic()
    with pytest.raises(RunFailed) as caught:
        connect(address, 0.3)
    assert 0.3 <= monotonic() - start < 10
    for word in (str(address), address.path, "0 s", "Start the server", "broker"):
        assert word in str(caught.value)


def test_a_tcp_server_that_refuses_is_reported(address):
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
        with pytest.raises(RunFailed, match="refused"):
            connect(SocketAddress("tcp", host="127.0.0.1", port=port), 0.1)


def test_two_clients_connect_at_once(address):
    listener = listen(address)
    clients = [Thread(target=lambda: connect(address, 10).close()) for _ in range(2)]
    for client in clients:
        client.start()
    for _ in clients:
        listener.accept()[0].close()
    for client in clients:
        client.join(10)
        assert not client.is_alive()
    close_listening_socket(listener)
