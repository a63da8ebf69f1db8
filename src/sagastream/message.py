"""Commands and replies, as handlers and requesters see them.

`_codec` encodes them as entries of a stream, and refuses malformed ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TERMINAL_STAGES = frozenset({"completed", "failed", "cancelled"})
STAGES = frozenset({"start", "progress"}) | TERMINAL_STAGES

# Called with each stage as a dict of its fields; may be async.
OnProgress = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Command:
    """A command as its handler sees it.

    Attributes:
        payload: The request's payload, decoded from JSON.
        request_id: The identity of the request.
        correlation_id: One id for everything that belongs together.
        saga_id: The saga that this is a step of, '' if none.
        event_type: `domain:action`.
        traceparent: The requester's W3C trace context, '' if it was not traced.
        parent_span_id: The requester's span, 16 hex digits or ''.
        deadline: In milliseconds of the server's clock since the Unix epoch; None if it has none.
        epoch: The fencing token: a later claim of the request has a higher one.
        attempt: Which claim of the request this is; 1 for the first.
        stream: The command stream, without the namespace.
        entry_id: The entry's id in that stream.
        reply_stream: The stream that the requester reads, '' if none.
        tracestate: W3C trace state, '' if none.
        last_progress: The payload of the last progress stage of an earlier claim, {} if there
            is none. A handler that takes over can continue from it.
    """

    payload: dict[str, Any]
    request_id: str
    correlation_id: str
    saga_id: str
    event_type: str
    traceparent: str = ""
    parent_span_id: str = ""
    deadline: int | None = None
    epoch: int = 0
    attempt: int = 1
    stream: str = ""
    entry_id: str = ""
    reply_stream: str = ""
    tracestate: str = ""
    last_progress: dict[str, Any] = field(default_factory=dict)
