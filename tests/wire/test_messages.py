"""Messages between lattice clients and broker: what is sent arrives, all else is refused."""

import dataclasses

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anharm.wire import messages
from anharm.wire.messages import (
    LARGEST_CLIENT_FRAME,
    BadMessage,
    ConfigurationSent,
    Hello,
    Observation,
    decode,
    encode,
    unpack_vectors,
)

OBSERVATION = Observation("client", 7, b"digested", 3, False, 0.02, 0.01, 0.012, -345.6)
FIELDS = {
    "int": st.integers(0, 2**53 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "str": st.text(max_size=50),
    "bytes": st.binary(max_size=200),
    "bool": st.booleans(),
}
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=50)
KINDS = messages.Message.__args__
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
    max_leaves=10,
)


def any_message():
    return st.one_of(
        st.builds(
            kind,
            **{
                field.name: NAMES
                if field.name in ("client", "trajectory", "forcefield")
                else FIELDS[field.type]
                for field in dataclasses.fields(kind)
            },
        )
        for kind in KINDS
    )


@given(any_message())
def test_every_message_arrives_as_it_was_sent(message):
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(frame):
    with pytest.raises(BadMessage):
        decode(frame)


@given(ANYTHING)
def test_what_is_no_message_is_refused(content):
    with pytest.raises(BadMessage):
        decode(msgpack.packb(content))


@given(any_message(), st.data())
def test_a_field_of_another_kind_is_refused_or_harmless(message, data):
    content = {"kind": type(message).__name__, **message.__dict__}
    name = data.draw(st.sampled_from([key for key in content if key != "kind"]))
    content[name] = data.draw(ANYTHING)
    try:
        result = decode(msgpack.packb(content))
    except BadMessage:
        return
    assert type(getattr(result, name)) is type(getattr(message, name))


@given(any_message(), st.data())
def test_a_message_cut_off_anywhere_is_refused(message, data):
    frame = encode(message)
    with pytest.raises(BadMessage):
        decode(frame[: data.draw(st.integers(0, len(frame) - 1))])


def changed(**fields):
    return msgpack.packb({"kind": "Observation", **OBSERVATION.__dict__, **fields})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"kind": "Order"}, "of no known kind"),
        ({"kind": 3}, "of no known kind"),
        ({"kind": []}, "of no known kind"),
        ({"more": 1}, "with the fields"),
        ({"sequence": True}, "sequence is a bool"),
        ({"sequence": -1}, "sequence is -1"),
        ({"sequence": 2**63}, f"sequence is {2**63}"),
        ({"energy": 1}, "energy is a int"),
        ({"energy": float("nan")}, "energy is not a finite number"),
        ({"force_std_max": float("inf")}, "force_std_max is not a finite number"),
        ({"client": "x" * 70_000}, "client is 70000 characters long"),
        ({"client": "x" * 201}, "client is no printable name"),
        ({"client": ""}, "client is no printable name"),
        ({"client": "a\nERROR forged"}, "client is no printable name"),
    ],
)
def test_the_refusal_says_why(fields, why):
    with pytest.raises(BadMessage, match=why):
        decode(changed(**fields))


def test_a_frame_that_is_too_large_is_refused_unread():
    with pytest.raises(BadMessage, match="exceeds the limit"):
        decode(bytes(LARGEST_CLIENT_FRAME + 1))


def test_maps_that_nest_deeply_are_refused():
    with pytest.raises(BadMessage):
        decode(b"\x81\xa1a" * 100_000)


def test_positions_are_exact():
    positions = np.random.default_rng(0).normal(size=(5, 3))
    message = decode(encode(ConfigurationSent.of("c", 0, np.eye(3), positions)))
    np.testing.assert_array_equal(unpack_vectors(message.positions, 5), positions)
    np.testing.assert_array_equal(unpack_vectors(message.cell, 3), np.eye(3))


@pytest.mark.parametrize("content", [b"", bytes(23), bytes(48)])
def test_vectors_of_another_number_are_refused(content):
    with pytest.raises(BadMessage, match="where 1 vectors were expected"):
        unpack_vectors(content, 1)


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(BadMessage, match="not finite"):
        unpack_vectors(messages.pack(np.array([[0.0, np.nan, 0.0]])), 1)


def test_a_hello_is_small():
    assert len(encode(Hello(1, "trajectory-12345678", "trajectory"))) < 100
