"""Observations that come together: as if each had come after the answer to the one before it."""

from __future__ import annotations

from anharm.server.broker import Broker, Reply
from anharm.wire.messages import Observations, Proceed


def handle_together(
    broker: Broker, address: bytes, message: Observations, now: float
) -> list[Reply]:
    """Let the broker handle each observation, until one of them may not simply proceed.

    Where the broker or the client before this one died after some of them, the same
    configurations come again: they are the same steps, and only the last of them is handled again.

    Parameters
    ----------
    broker : Broker
    address : bytes
        Of the client.
    message : Observations
    now : float
        Seconds.

    Returns
    -------
    list
        The replies to the first observation that did not simply proceed, or else to the last one.

    Raises
    ------
    BadMessage
        If the message makes no sense.
    """
    observations = message.one_by_one()
    client = broker.clients.get(message.client)
    if client is not None and client.is_new:
        last = broker.trajectories.last_configurations.get(client.trajectory)
        again = [n for n, one in enumerate(observations) if one.configuration == last]
        observations = observations[again[0] if again else 0 :]
    replies: list[Reply] = []
    for observation in observations:
        replies = broker.handle(address, observation, now)
        match replies:
            case [(_, Proceed(sequence=observation.sequence))]:
                continue
        break
    return replies
