"""Emitting a command: checked here, and written with its record in one function there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from sagastream._client.session import Session
from sagastream._codec.entries import SCHEMA_VERSION
from sagastream._codec.payload import encode_payload
from sagastream._codec.validation import as_milliseconds, check_count, check_name
from sagastream._telemetry import spans
from sagastream.effects import Effect
from sagastream.errors import RequestConflict


class CommandSpec(TypedDict):
    """What a command is, beside its stream; as `Bus.request_and_reply` describes it.

    With `only_end` its reply stream gets the terminal stage alone, unless a trace is recorded,
    which tells of each.
    """

    event_type: str
    payload: Mapping[str, Any]
    correlation_id: str
    saga_id: str
    request_id: str
    reply_stream: str
    deadline_s: NotRequired[float | None]
    maxlen: NotRequired[int | None]
    ttl: NotRequired[float | None]
    supersedes: NotRequired[Sequence[str]]
    effect: NotRequired[Effect | None]
    only_end: NotRequired[bool]


async def emit(
    session: Session,
    key: Callable[[str], str],
    stream: str,
    max_payload: int,
    emission: CommandSpec,
) -> tuple[str, bool]:
    """Write a command and its record; its entry's id, and whether the request is new.

    Args:
        session: The server.
        key: Gives a name its namespace.
        stream: The command stream.
        max_payload: The largest payload, in bytes of JSON.
        emission: The command.

    Raises:
        InvalidMessage: Something in it is not what it must be.
        RequestConflict: The request id is known with another payload.
    """
    check_name("stream", stream)
    request_id = check_name("request_id", emission["request_id"])
    reply_stream = check_name("reply_stream", emission["reply_stream"], required=False)
    saga_id = check_name("saga_id", emission["saga_id"], required=False)
    correlation_id = check_name("correlation_id", emission["correlation_id"])
    event_type = check_name("event_type", emission["event_type"])
    payload = encode_payload(emission["payload"], max_bytes=max_payload)
    about = {
        "correlation_id": correlation_id,
        "request_id": request_id,
        "saga_id": saga_id,
        "event_type": event_type,
    }
    entry = (correlation_id, request_id, saga_id, event_type, payload, reply_stream)
    with spans.sending(session.server, stream, about) as span:
        told, ends = reply_names(reply_stream, saga_id), []
        if emission.get("only_end") and not span.is_recording():
            told, ends = reply_names("", saga_id), [reply_stream]
        answer = await session.functions.emit(
            key(f"request:{request_id}"),
            key(stream),
            session.instance.key,
            (*entry, SCHEMA_VERSION, *spans.trace_of(span)),
            reply_streams=[key(name) for name in told],
            end_streams=[key(name) for name in ends],
            deadline_ms=as_milliseconds("deadline_s", emission.get("deadline_s")),
            maxlen=check_count("maxlen", emission.get("maxlen")),
            ttl_ms=as_milliseconds("ttl", emission.get("ttl")),
            effect=emission.get("effect") or "",
            supersedes=[
                key(f"request:{check_name('supersedes', superseded)}")
                for superseded in emission.get("supersedes", ())
            ],
            wakeup_prefix=key("listener:"),
        )
        if answer.word == "conflict":
            raise RequestConflict(request_id, stream)
        entry_id, counter = answer.rest
        session.instance.counted(int(counter))
        span.set_attribute("messaging.message.id", entry_id)
        return entry_id, answer.word == "new"


def reply_names(reply_stream: str, saga_id: str) -> list[str]:
    """Where a request's replies go: the requester's stream, and the saga's."""
    names = [reply_stream, f"saga:{saga_id}:replies" if saga_id else ""]
    return [name for name in names if name]


def stage_fields(ids: Mapping[str, str], status: str, payload: str) -> dict[str, str]:
    """The fields of a stage, told under the current span; the server adds epoch and time."""
    return {
        "correlation_id": ids.get("correlation_id", ""),
        "request_id": ids["request_id"],
        "saga_id": ids.get("saga_id", ""),
        "event_type": ids.get("event_type", ""),
        "status": status,
        "payload": payload,
        "v": SCHEMA_VERSION,
        **spans.carrier(),
    }
