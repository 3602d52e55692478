"""Whatever arrives at the broker's socket that is no message of the run: the run goes on."""

import os

import msgpack
import numpy as np
import zmq

from anharm.configuration import load_configuration
from anharm.wire.messages import (
    LARGEST_CLIENT_FRAME,
    PROTOCOL_VERSION,
    ConfigurationSent,
    Goodbye,
    Hello,
    Introduce,
    NewModel,
    Observation,
    Proceed,
    SendConfiguration,
    decode,
    encode,
)

NONSENSE = [
    [b""],
    [os.urandom(1000)],
    [b"\x81\xa1a" * 10_000],
    [b"one", b"two", b"three"],
    [msgpack.packb({"kind": "Launch"})],
    [msgpack.packb({"kind": "Hello", "protocol": "1", "client": "x", "trajectory": "x"})],
    [encode(Hello(99, "from the future", "x"))],
    [encode(Proceed(0))],
    [encode(NewModel(1, b"not a model"))],
    [encode(Goodbye("somebody", "I end your run"))],
    [encode(Observation("somebody", 0, bytes(8), 1, False, 9.0, 9.0, 9.0, 0.0))],
    [encode(ConfigurationSent("somebody", 0, bytes(72), bytes(64 * 24)))],
]


def test_the_run_goes_on(job):
    job.set_steps(1000)
    process = job.start_run()
    job.wait_for_step(20)
    endpoint = load_configuration(job.run_file).run.broker_endpoint
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 5000
        socket.connect(endpoint)
        for frames in NONSENSE:
            socket.send_multipart(frames)
        refused = decode(socket.recv())
        assert "install the same version" in refused.failure
        for _ in range(2):  # of the unknown client's observation and configuration
            assert isinstance(decode(socket.recv()), Introduce)
        expect_replays_to_be_dropped(socket)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 1000
        socket.connect(endpoint)
        socket.send(bytes(LARGEST_CLIENT_FRAME + 1))

    ended = job.end(process, "run")
    job.expect_no_process()
    assert ended.code == 0, ended.err
    assert job.output_steps()[-1] == 1000
    log = (job.directory / "logs" / "broker.log").read_text()
    for reason in (
        "a message of 4 frames was dropped",
        "not msgpack",
        "of no known kind",
        "Hello.protocol is a str",
        "a Proceed is for clients",
        "a Goodbye of an unknown client",
        "observation 0 after 1",
        "observation 1 after 1",
    ):
        assert reason in log, reason
    with job.record() as record:
        (chunk,) = record.observations("replayed")
        assert list(chunk.steps) == [0, 1]


def expect_replays_to_be_dropped(socket):
    """A client of a trajectory of its own, which sends its observations again."""
    socket.send(encode(Hello(PROTOCOL_VERSION, "replayer", "replayed")))
    model = decode(socket.recv(), 1 << 30)
    assert isinstance(model, NewModel)

    def observe(sequence, version):
        digest = b"%8d" % sequence
        errors = (1e-3, 1e-3, 1e-3)
        socket.send(
            encode(Observation("replayer", sequence, digest, version, False, *errors, -1.0))
        )

    version = model.version
    for sequence in (0, 1):
        reply = None
        while not isinstance(reply, Proceed):  # the run's own client may have brought a new model
            if isinstance(reply, SendConfiguration):
                cell, positions = 10.86 * np.eye(3), np.zeros((64, 3))
                sent = ConfigurationSent.of("replayer", sequence, cell, positions)
                socket.send(encode(sent))
            else:
                observe(sequence, version)
            assert socket.poll(30_000), "no answer"
            reply = decode(socket.recv(), 1 << 30)
            version = getattr(reply, "version", version)
    observe(1, version)
    observe(0, version)
    socket.send(encode(Goodbye("replayer", "")))
    assert not socket.poll(500)  # replays get no answer
