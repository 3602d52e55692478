"""The client's side of the i-PI socket protocol, as one loop around an evaluation."""

import socket
from collections.abc import Callable
from typing import Literal

from anharm.wire import driver_protocol as protocol
from anharm.wire.channel import Channel, ProtocolViolation
from anharm.wire.driver_protocol import Batch, Configuration, Evaluation, Evaluations

Evaluate = Callable[[Configuration], Evaluation]
EvaluateBatch = Callable[[Batch], Evaluations]
Initialise = Callable[[int, str], None]
Idle = Callable[[], None]

# How long a client that failed waits for the server to see it leave.
FAREWELL_SECONDS = 1.0


def serve(
    connection: socket.socket,
    evaluate: Evaluate,
    *,
    evaluate_batch: EvaluateBatch | None = None,
    initialise: Initialise | None = None,
    idle: Idle | None = None,
) -> Literal["exit", "closed"]:
    """Answer an i-PI server until it ends the conversation, then close the connection.

    Servers that ask for STATUS between the messages, and those that send POSDATA and
    GETFORCE at once, are both served. An exception of `evaluate` ends the loop; it leaves
    after the pending request was drained, which i-PI takes as a client that has left.

    Parameters
    ----------
    connection : socket.socket
        Connected to the server, as `anharm.wire.addresses.connect` returns it.
    evaluate : callable
        Returns the evaluation of a configuration.
    evaluate_batch : callable, optional
        Returns one evaluation per configuration of a batch; `evaluate` for each of them if
        not given. Batches come only where the user's i-PI input asks for them.
    initialise : callable, optional
        Called with the identifier and the text of each INIT message.
    idle : callable, optional
        Called when the server knows that this client is ready, before its next message is read.

    Returns
    -------
    str
        "exit" where the server said so, "closed" where it closed the connection between two
        messages.

    Raises
    ------
    PeerClosed
        If the server closes the connection in the middle of a message.
    ProtocolViolation
        If it sends what the protocol does not allow.
    """
    channel = Channel(connection)
    conversation = _Conversation(channel, evaluate, evaluate_batch, initialise, idle)
    farewell = FAREWELL_SECONDS
    try:
        ending = conversation.run()
        farewell = 0.0
        return ending
    finally:
        channel.close(drain_seconds=farewell)


class _Conversation:
    """State of one client: what STATUS is answered with, and the answer that waits."""

    def __init__(
        self,
        channel: Channel,
        evaluate: Evaluate,
        evaluate_batch: EvaluateBatch | None,
        initialise: Initialise | None,
        idle: Idle | None,
    ) -> None:
        self.channel = channel
        self.evaluate = evaluate
        self.evaluate_batch = evaluate_batch
        self.initialise = initialise
        self.idle = idle
        self.status = protocol.NEEDINIT
        self.batch_size = 1
        self.answer: bytes | None = None

    def run(self) -> Literal["exit", "closed"]:
        while (header := self.channel.read_unless_closed(protocol.HEADER_LENGTH)) is not None:
            if header == protocol.STATUS:
                self.channel.send(self.status)
                if self.idle is not None and self.status == protocol.READY:
                    self.idle()
            elif header == protocol.POSDATA:
                self.answer = self._evaluate()
                self.status = protocol.HAVEDATA
            elif header == protocol.GETFORCE:
                self._send_answer()
            elif header == protocol.INIT:
                self._initialise()
            elif header == protocol.EXIT:
                return "exit"
            else:
                raise ProtocolViolation(
                    f"the server sent {bytes(header)!r}, which is no message of the i-PI protocol"
                )
        return "closed"

    def _initialise(self) -> None:
        identifier, text = protocol.read_initialisation(self.channel)
        self.batch_size = protocol.batch_size(text)
        self.status = protocol.READY
        if self.initialise is not None:
            self.initialise(identifier, text)

    def _evaluate(self) -> bytes:
        if self.batch_size == 1:
            return protocol.encode_evaluation(
                self.evaluate(protocol.read_configuration(self.channel))
            )
        batch = protocol.read_batch(self.channel, self.batch_size)
        if self.evaluate_batch is not None:
            evaluations = self.evaluate_batch(batch)
        else:
            evaluations = Evaluations.of([self.evaluate(one) for one in batch.configurations])
        return protocol.encode_evaluations(evaluations, batch.size)

    def _send_answer(self) -> None:
        if self.answer is None:
            raise ProtocolViolation("the server sent GETFORCE before any POSDATA")
        self.channel.send(self.answer)
        self.answer = None
        self.status = protocol.READY
