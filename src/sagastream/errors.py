"""Every error that the library raises, as one tree.

SagastreamError
├── InvalidMessage        a field of an entry is invalid (also a ValueError)
│   └── InvalidPayload    a payload does not fit the type that was declared
├── RequestConflict       a request id was used again with another payload
├── ResultExpired         the request ended so long ago that its result is no longer kept
├── StageRefused          a process without the claim wrote a stage of a request
├── LeaseLost             another claim has the request now
├── WriteConflict         a value that an atomic handler read changed in every run
├── RegistrationError     handlers that cannot be served together
├── ServerUnavailable     no answer from the server (also a ConnectionError)
│   └── NotReplicated     it was done, but replicas have not confirmed it in time
├── DataLost              the server came back without our data, or with older data
├── ServerRefused         the server answers, but for now takes no writes
├── ServerError           the server refused a command, in its own words
├── ServerUnsuitable      the server cannot do what is needed
├── UnknownLayout         a newer release wrote the record of a request
├── Overloaded            too many requests of this process are in flight
├── ReplyTimeout          the wait ended, not the request (also a TimeoutError)
│   └── NoHandlers        and no live listener has that event type
├── RequestFailed         the handler failed
│   ├── HandlerLost       its handlers died too often; it is a dead letter
│   └── DeadlineExceeded  its deadline passed
├── RequestCancelled      the request was cancelled
└── SagaError             a saga's declaration or journal does not allow what was asked
    ├── NoSuchSaga        there is no journal with that id (any more)
    └── UnreadableJournal a newer release wrote the journal, or it is malformed

HandlerStopped is not in the tree: it is a BaseException that ends a plain handler.

Facts are attributes, so that no program has to parse a message.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


class SagastreamError(Exception):
    """Root of all errors of the library."""

    _facts: tuple[str, ...] = ()  # what its constructor takes, for pickle

    def __reduce__(self) -> Any:
        facts = tuple(getattr(self, name) for name in self._facts)
        return (type(self), facts) if facts else super().__reduce__()


class InvalidMessage(SagastreamError, ValueError):
    """A field of an entry is invalid.

    Attributes:
        field: The name of the field, as a path into the payload where it is inside it.
        reason: What is wrong with it.
    """

    _facts = ("field", "reason")

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidPayload(InvalidMessage):
    """A payload does not fit its declared type; `field` is a path, as `order.items[2].sku`."""


class RequestConflict(SagastreamError):
    """The request id is known, with another payload, event type or stream."""

    _facts = ("request_id", "stream")

    def __init__(self, request_id: str, stream: str) -> None:
        super().__init__(
            f"request {request_id} was emitted before with another payload, event type or "
            f"stream than this one on {stream}; use a new request id",
        )
        self.request_id = request_id
        self.stream = stream


class ResultExpired(SagastreamError):
    """The request has ended, and its result is no longer kept. It does not run again.

    Attributes:
        request_id: The request.
        status: How it ended: `completed`, `failed` or `cancelled`.
        ended_s: When it ended, in seconds since the Unix epoch, by the server's clock.
    """

    _facts = ("request_id", "status", "ended_s")

    def __init__(self, request_id: str, status: str, ended_s: int) -> None:
        ended = datetime.fromtimestamp(ended_s, UTC).isoformat()
        super().__init__(
            f"request {request_id} ended as {status} at {ended}; its result is no longer kept "
            "(see Retention), and it does not run again: use a new request id to run it anew"
        )
        self.request_id = request_id
        self.status = status
        self.ended_s = ended_s


class StageRefused(SagastreamError):
    """A stage was written by a process that has no claim to the request.

    Attributes:
        request_id: The request.
        status: The stage that was refused.
    """

    _facts = ("request_id", "status")

    def __init__(self, request_id: str, status: str) -> None:
        super().__init__(
            f"stage '{status}' of request {request_id} refused: only the handler that claimed a "
            "request may write its stages",
        )
        self.request_id = request_id
        self.status = status


class LeaseLost(SagastreamError):
    """Another claim has the request, or it has ended; this claim may not write any more.

    Attributes:
        request_id: The request.
        status: Its status on the server.
    """

    _facts = ("request_id", "status")

    def __init__(self, request_id: str, status: str) -> None:
        super().__init__(
            f"the lease of request {request_id} is lost (the request is {status or 'unknown'})"
        )
        self.request_id = request_id
        self.status = status


class WriteConflict(SagastreamError):
    """A value that an atomic handler read had changed after each run; nothing was written.

    Attributes:
        runs: How many times the handler ran.
    """

    _facts = ("runs",)

    def __init__(self, runs: int) -> None:
        super().__init__(
            f"a value that the handler read was changed by another writer in each of {runs} runs"
        )
        self.runs = runs


class HandlerStopped(BaseException):
    """Raised by a plain handler's `progress` when the handler has to end.

    Like `asyncio.CancelledError` it is not an `Exception`, so that a handler that catches
    exceptions still stops.
    """


class RegistrationError(SagastreamError):
    """Handlers that cannot be served together, or an object that is not a handler."""


class ServerUnavailable(SagastreamError, ConnectionError):
    """The server did not answer in time.

    Attributes:
        address: The server, without its password.
        reason: What happened to the connection.
    """

    _facts = ("address", "reason")

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"no answer from {address}: {reason}")
        self.address = address
        self.reason = reason


class NotReplicated(ServerUnavailable):
    """The server did what was asked, but too few replicas have confirmed it in time.

    A failover can still undo it. Ask again with the same request id: nothing is done twice, and
    the answer comes when replicas have it.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.args = (f"done by {address}, but not confirmed: {reason}",)


class ServerRefused(SagastreamError):
    """The server answers, but for now takes no writes: it is full, or a replica.

    Attributes:
        address: The server, without its password.
        reason: The server's error.
    """

    _facts = ("address", "reason")

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address} takes no writes: {reason}")
        self.address = address
        self.reason = reason


class DataLost(SagastreamError):
    """The server answers, but has lost data of this process. Check what was running.

    Attributes:
        address: The server, without its password.
        how: What was noticed.
    """

    _facts = ("address", "how")

    def __init__(self, address: str, how: str) -> None:
        super().__init__(
            f"{address} has lost data: {how}; the state of running requests is unknown"
        )
        self.address = address
        self.how = how


class ServerError(SagastreamError):
    """The server refused a command.

    Attributes:
        code: The first word of its answer, such as `WRONGTYPE`.
        message: The whole answer.
    """

    _facts = ("code", "message")

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ServerUnsuitable(SagastreamError):
    """The server answers, but cannot do what is needed."""


class UnknownLayout(SagastreamError):
    """A newer release wrote the record of a request; this one leaves it alone.

    Attributes:
        layout: The layout of the record.
        known: The newest layout that this release knows.
    """

    _facts = ("layout", "known")

    def __init__(self, layout: int, known: int) -> None:
        super().__init__(
            f"the record has layout {layout}, and this release knows layouts up "
            f"to {known}; upgrade this process"
        )
        self.layout = layout
        self.known = known


class Overloaded(SagastreamError):
    """This process has the allowed number of requests in flight; nothing was sent.

    Attributes:
        limit: How many may be in flight.
    """

    _facts = ("limit",)

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} requests of this process are in flight already; nothing was sent"
        )
        self.limit = limit


class ReplyTimeout(SagastreamError, TimeoutError):
    """No terminal stage came in time. The request itself may still be running.

    Attributes:
        request_id: The request that was waited for.
        timeout: How long, in seconds.
        last_stage: The last stage that arrived, None if none.
        known: The diagnosis: what the server knows of the request, '' if it was not asked.
    """

    _facts = ("request_id", "timeout", "last_stage", "known")

    def __init__(
        self, request_id: str, timeout: float, last_stage: str | None = None, known: str = ""
    ) -> None:
        stage = f"last stage seen: {last_stage}" if last_stage else "no stage seen"
        diagnosis = f"; {known}" if known else ""
        super().__init__(
            f"no reply to request {request_id} within {timeout:g} s ({stage}{diagnosis})"
        )
        self.request_id = request_id
        self.timeout = timeout
        self.last_stage = last_stage
        self.known = known


class NoHandlers(ReplyTimeout):
    """No reply, and no live listener has the event type. The command stays for the next one."""


class RequestFailed(SagastreamError):
    """The request ended as failed.

    Attributes:
        error_type: The class name of the handler's error.
        message: The handler's error message.
        trace_id: The trace in which it happened, '' if it was not traced.
        traceback: The last frames of the handler's code, '' if the listener sends none.
        reply: The terminal reply, with every field of its entry.
    """

    _facts = ("reply",)

    def __init__(self, reply: Mapping[str, Any]) -> None:
        payload = reply["payload"]
        self.error_type: str = str(payload.get("error_type", "Unknown"))
        self.message: str = str(payload.get("message", ""))
        self.trace_id: str = str(payload.get("trace_id", ""))
        self.traceback: str = str(payload.get("traceback", ""))
        self.reply = dict(reply)
        # `KeyError('sku')` has its type in its message.
        is_whole = self.message.startswith(f"{self.error_type}(")
        super().__init__(self.message if is_whole else f"{self.error_type}: {self.message}")


class HandlerLost(RequestFailed):
    """The request lost its handlers too often; the command is a dead letter now."""


class DeadlineExceeded(RequestFailed):
    """The request's deadline passed before it was done."""


class RequestCancelled(SagastreamError):
    """The request ended as cancelled.

    Attributes:
        reply: The terminal reply, with every field of its entry.
    """

    _facts = ("reply",)

    def __init__(self, reply: Mapping[str, Any]) -> None:
        self.reply = dict(reply)
        super().__init__(f"request {reply['request_id']} was cancelled")


class SagaError(SagastreamError):
    """A saga's declaration or journal does not allow what was asked."""


class NoSuchSaga(SagaError):
    """No journal of this declaration has that id: never written, expired, or of another saga.

    Attributes:
        saga_id: The id.
    """

    _facts = ("saga_id", "why")

    def __init__(self, saga_id: str, why: str = "") -> None:
        super().__init__(f"there is no saga {saga_id}" + (f": {why}" if why else ""))
        self.saga_id = saga_id
        self.why = why


class UnreadableJournal(SagaError):
    """A newer release wrote the journal, or it is malformed. It is left unchanged.

    Attributes:
        saga_id: The id.
        version: Its schema version; 0 if it is malformed.
        why: Why it cannot be read, and what to do.
    """

    _facts = ("saga_id", "version", "why")

    def __init__(self, saga_id: str, version: int, why: str) -> None:
        super().__init__(f"the journal of saga {saga_id} {why}")
        self.saga_id = saga_id
        self.version = version
        self.why = why
