"""Keys: known clients reach the known broker, and nobody else reaches anybody."""

import shutil
import stat

import pytest
import zmq

from anharm.errors import ConfigurationError
from anharm.server.broker_socket import broker_socket
from anharm.wire.broker_connection import connect_to_broker
from anharm.wire.curve_keys import make_keys

PATIENCE = 20_000  # ms
REFUSED = 1_000  # ms; a handshake takes a few


@pytest.fixture
def keys(tmp_path):
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def broker(keys):
    with broker_socket("tcp://127.0.0.1:*", keys, 10_000) as socket:
        yield socket


@pytest.fixture
def ask(broker):
    """Whether a client with a folder of keys gets an answer."""

    def get_answer(keys, patience=REFUSED) -> bool:
        endpoint = broker.last_endpoint.decode().strip("\0")
        with zmq.Context() as context:
            client = connect_to_broker(context, endpoint, keys, largest_frame=1000)
            client.send(b"question")
            arrived = bool(broker.poll(patience))
            if arrived:
                broker.send_multipart([broker.recv_multipart()[0], b"answer"])
                arrived = bool(client.poll(PATIENCE)) and client.recv() == b"answer"
            client.close()
        return arrived

    return get_answer


def test_the_known_client_is_answered(ask, keys):
    assert ask(keys, PATIENCE)


def test_a_client_needs_its_secret_and_the_public_key_of_the_broker_only(ask, keys, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("broker.key", "client.key_secret"):
        shutil.copy(keys / name, elsewhere)
    assert ask(elsewhere, PATIENCE)


def test_a_client_without_keys_is_not_heard(ask, keys):
    assert not ask(None)
    assert ask(keys, PATIENCE)


def test_a_client_that_the_broker_does_not_know_is_not_heard(ask, keys, tmp_path):
    make_keys(tmp_path / "stranger")
    shutil.copy(keys / "broker.key", tmp_path / "stranger")
    assert not ask(tmp_path / "stranger")
    assert ask(keys, PATIENCE)


def test_a_client_says_nothing_to_a_broker_that_it_does_not_know(ask, keys, tmp_path):
    make_keys(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "broker.key", keys)
    assert not ask(keys)


def test_every_public_key_in_the_folder_of_the_broker_is_that_of_a_client(keys, tmp_path):
    make_keys(tmp_path / "laptop")
    shutil.copy(tmp_path / "laptop" / "client.key", keys / "laptop.key")
    shutil.copy(keys / "broker.key", tmp_path / "laptop")
    with (
        broker_socket("tcp://127.0.0.1:*", keys, 10_000) as broker,
        zmq.Context() as context,
    ):
        endpoint = broker.last_endpoint.decode().strip("\0")
        for folder in (keys, tmp_path / "laptop"):
            client = connect_to_broker(context, endpoint, folder, largest_frame=1000)
            client.send(b"question")
            assert broker.poll(PATIENCE) and broker.recv_multipart()[1] == b"question"
            client.close()


def test_secrets_are_readable_by_their_owner_alone(keys):
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in keys.iterdir()}
    assert modes == {
        "broker.key": 0o644,
        "client.key": 0o644,
        "broker.key_secret": 0o600,
        "client.key_secret": 0o600,
    }
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700


def test_keys_are_never_overwritten(keys):
    before = {file: file.read_text() for file in keys.iterdir()}
    (keys / "client.key").unlink()
    with pytest.raises(ConfigurationError, match=r"broker\.key.* are never overwritten"):
        make_keys(keys)
    before.pop(keys / "client.key")
    assert {file: file.read_text() for file in keys.iterdir()} == before


def open_broker(keys):
    with broker_socket("tcp://127.0.0.1:*", keys, 10_000):
        raise AssertionError("it must not open")


def test_a_secret_that_others_can_read_is_refused(keys):
    (keys / "broker.key_secret").chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        open_broker(keys)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broker.key_secret", None),
        ("broker.key_secret", "nonsense"),
        ("broker.key_secret", 'public-key = "' + "x" * 40 + '"'),
        ("client.key", None),
        ("client.key", 'public-key = "short"'),
    ],
)
def test_a_broker_with_incomplete_keys_says_which_file(keys, name, content):
    (keys / name).unlink()
    if content is not None:
        (keys / name).write_text(content)
        (keys / name).chmod(0o600)
    with pytest.raises(ConfigurationError, match=name):
        open_broker(keys)
