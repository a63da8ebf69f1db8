"""Commands, payloads and replies, as handlers and requesters see them.

`_codec` encodes them as entries of a stream, and refuses malformed ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # `default` is new in Python 3.13

    T = TypeVar("T", default=dict[str, Any])
else:
    from typing import TypeVar

    T = TypeVar("T")

TERMINAL_STAGES = frozenset({"completed", "failed", "cancelled"})
STAGES = frozenset({"start", "progress"}) | TERMINAL_STAGES

# Called with each stage as a dict of its fields; may be async.
OnProgress = Callable[[dict[str, Any]], Any]


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


class _Pydantic(Protocol):
    def model_dump_json(self) -> str: ...


class _Struct(Protocol):
    __struct_fields__: ClassVar[tuple[str, ...]]


# A JSON object: a mapping, a dataclass, a pydantic model or a msgspec Struct.
Payload = Mapping[str, Any] | _Dataclass | _Pydantic | _Struct


class Progress(Protocol):
    """Reports the progress of an async handler to the requester."""

    async def __call__(self, fraction: float, detail: Mapping[str, Any] | None = None) -> None:
        """Write a progress stage.

        Args:
            fraction: How much is done, from 0 to 1.
            detail: More fields of the payload, as JSON, next to `fraction`.

        Raises:
            InvalidMessage: An argument is invalid.
            LeaseLost: Another claim has the request now.
        """


class PlainProgress(Protocol):
    """Reports the progress of a plain handler, which runs in a thread, to the requester."""

    def __call__(self, fraction: float, detail: Mapping[str, Any] | None = None) -> None:
        """Write a progress stage.

        Raises:
            InvalidMessage: An argument is invalid.
            HandlerStopped: The request was cancelled, its deadline has passed, or another
                claim has it. It is not an `Exception`: do not catch it.
        """


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """A command as its handler sees it.

    `Command[Order]` in the signature of a handler has an `Order` as its payload.

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

    payload: T
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


def error_text(error: Mapping[str, Any]) -> str:
    """Type and message of an error, the type once."""
    kind, message = str(error.get("error_type") or ""), str(error.get("message") or "")
    if not kind or message.startswith(f"{kind}("):
        return message
    return f"{kind}: {message}"


def printable(text: str) -> str:
    """A text with control characters as escapes: what a server sends steers no terminal, and no page."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )
