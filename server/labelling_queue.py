"""Which label request is tried next, and when one is given up: plain state, no sockets."""

from collections import deque

from anharm.server.labelling_events import (
    AttemptFailed,
    LabelReceived,
    LabelRequest,
    RequestFailed,
    Result,
)
from anharm.wire.driver_protocol import Configuration


class RequestQueue:
    """Label requests in order of arrival; failed ones go first, up to `attempts` times."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        self._pending: deque[LabelRequest] = deque()
        self._assigned: dict[str, LabelRequest] = {}
        self._failures: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._pending)

    def submit(self, request: LabelRequest) -> None:
        """Add a request.

        Raises
        ------
        ValueError
            If a request of that identifier is still open.
        """
        if request.request_id in self._failures:
            raise ValueError(f"label request {request.request_id} is open already")
        self._failures[request.request_id] = 0
        self._pending.append(request)

    def take(self, client: str) -> LabelRequest | None:
        """Assign the next request to a client; None if there is none."""
        if not self._pending:
            return None
        self._assigned[client] = self._pending.popleft()
        return self._assigned[client]

    def take_equal(self, client: str, configuration: Configuration) -> LabelRequest | None:
        """Assign the first request for this very configuration; None if there is none."""
        for request in self._pending:
            if request.configuration.is_equal(configuration):
                self._pending.remove(request)
                self._assigned[client] = request
                return request
        return None

    def answered(self, client: str, result: Result) -> LabelReceived:
        """Close the request that was assigned to a client."""
        request_id = self._assigned.pop(client).request_id
        del self._failures[request_id]
        return LabelReceived(
            request_id,
            client,
            result.evaluation,
            result.seconds,
            result.program,
            result.complaints,
        )

    def failed(self, client: str, reason: str) -> list[AttemptFailed | RequestFailed]:
        """Put the request of a client back, or give it up; nothing if it has none."""
        request = self._assigned.pop(client, None)
        if request is None:
            return []
        request_id = request.request_id
        attempt = self._failures[request_id] = self._failures[request_id] + 1
        events: list[AttemptFailed | RequestFailed] = [
            AttemptFailed(request_id, client, reason, attempt)
        ]
        if attempt < self.attempts:
            self._pending.appendleft(request)
        else:
            del self._failures[request_id]
            events.append(
                RequestFailed(request_id, f"all {attempt} attempts failed, the last one: {reason}")
            )
        return events
