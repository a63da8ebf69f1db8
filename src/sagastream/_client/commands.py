"""Emit a command: check it, then write it with its record in one function on the server."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import TypedDict

from sagastream._client.session import Session
from sagastream._codec.entries import SCHEMA_VERSION
from sagastream._codec.payload import encode_payload
from sagastream._codec.validation import as_milliseconds, check_count, check_name, new_id
from sagastream._functions.answers import Expired
from sagastream._redis.deadline import Deadline
from sagastream._telemetry import spans
from sagastream._telemetry.propagation import injected
from sagastream._telemetry.trace_context import trace_fields, trace_id, trace_of
from sagastream.admission import Priority, Unique
from sagastream.effects import Effect
from sagastream.errors import InvalidMessage, RequestConflict, ResultExpired, StageRefused
from sagastream.message import Payload

# The length of an error message, or a traceback, in a reply, in characters.
_MESSAGE_LIMIT = 2000
# The token of the claim under which the current handler runs, so that it may write its stages.
claim_token: ContextVar[str] = ContextVar("sagastream_claim_token", default="")


class _Identity(TypedDict):
    event_type: str
    payload: Payload
    correlation_id: str
    saga_id: str
    request_id: str
    reply_stream: str


class CommandSpec(_Identity, total=False):
    """A command without its stream; `Bus.request_and_reply` describes the fields.

    With `terminal_only` its reply stream gets only the terminal stage. If a trace is recorded
    it gets every stage, as the trace shows them.
    """

    deadline_s: float | None
    delay_s: float | None
    not_before: datetime | None
    priority: Priority | None
    unique: Unique | None
    maxlen: int | None
    ttl: float | None
    supersedes: Sequence[str]
    effect: Effect | None
    terminal_only: bool


def command_spec(  # noqa: PLR0917 - in the order of `Bus`
    event_type: str,
    payload: Payload,
    correlation_id: str | None,
    saga_id: str | None,
    request_id: str | None,
    reply_stream: str | None,
) -> CommandSpec:
    """Make a command, with new ids where None is given."""
    return {
        "event_type": event_type,
        "payload": payload,
        "correlation_id": correlation_id or new_id(),
        "saga_id": saga_id or "",
        "request_id": request_id or new_id(),
        "reply_stream": reply_stream or "",
    }


async def emit(
    session: Session, stream: str, spec: CommandSpec, *, deadline: Deadline
) -> tuple[str, bool]:
    """Write a command and its record.

    Args:
        session: The server.
        stream: The command stream.
        spec: The command.
        deadline: When to stop, as exactly as the server's silence is noticed; the caller ends a
            wait that must be exact.

    Returns:
        The id of its entry, and whether the request is new.

    Raises:
        InvalidMessage: A field is invalid.
        RequestConflict: The request id is known with another payload.
        ResultExpired: The request ended so long ago that its result is no longer kept.
        ServerUnavailable: The server did not answer in time.
    """
    options = session.options
    check_name("stream", stream)
    request_id = check_name("request_id", spec["request_id"])
    reply_stream = check_name("reply_stream", spec["reply_stream"], required=False)
    saga_id = check_name("saga_id", spec["saga_id"], required=False)
    correlation_id = check_name("correlation_id", spec["correlation_id"])
    event_type = check_name("event_type", spec["event_type"])
    delay_ms, not_before_ms = _due_times(spec)
    payload = encode_payload(spec["payload"], max_bytes=options.max_payload)
    fields = {
        "correlation_id": correlation_id,
        "request_id": request_id,
        "saga_id": saga_id,
        "event_type": event_type,
    }
    entry = (correlation_id, request_id, saga_id, event_type, payload, reply_stream)
    with spans.sending(session.server, stream, fields) as span:
        terminal_only = spec.get("terminal_only") and not span.is_recording()
        answer = await session.requests.emit(
            options.record_key(request_id),
            options.key(stream),
            (*entry, SCHEMA_VERSION, *trace_of(span)),
            reply_streams=options.reply_keys("" if terminal_only else reply_stream, saga_id),
            end_streams=[options.key(reply_stream)] if terminal_only else [],
            deadline_ms=as_milliseconds("deadline_s", spec.get("deadline_s")),
            maxlen=check_count("maxlen", spec.get("maxlen")),
            ttl_ms=as_milliseconds("ttl", spec.get("ttl")),
            effect=spec.get("effect") or "",
            delay_ms=delay_ms,
            not_before_ms=not_before_ms,
            turn=_turn_of(spec),
            unique=_unique_of(spec),
            context=injected(),
            supersedes=[
                options.record_key(check_name("supersedes", superseded))
                for superseded in spec.get("supersedes", ())
            ],
            deadline=deadline,
        )
        if isinstance(answer, Expired):
            raise ResultExpired(request_id, answer.status, answer.ended_s)
        if answer.outcome == "conflict":
            raise RequestConflict(request_id, stream)
        session.guard.note_counter(answer.counter)
        span.set_attribute("messaging.message.id", answer.entry_id)
        return answer.entry_id, answer.outcome == "new"


def _due_times(spec: CommandSpec) -> tuple[int | None, int | None]:
    """When a command may begin, in milliseconds: from now, and since the Unix epoch.

    Raises:
        InvalidMessage: A time is invalid, or does not fit the other options.
    """
    delay_s, not_before = spec.get("delay_s"), spec.get("not_before")
    if delay_s is None and not_before is None:
        return None, None
    if not_before is not None and (
        not isinstance(not_before, datetime) or not_before.tzinfo is None
    ):
        raise InvalidMessage(
            "not_before", f"must be a datetime with a time zone, not {not_before!r}"
        )
    _check_wait(spec)
    deadline_s = spec.get("deadline_s")
    if delay_s is not None and deadline_s is not None and deadline_s <= delay_s:
        raise InvalidMessage("deadline_s", f"must be more than delay_s ({delay_s:g})")
    delay_ms = as_milliseconds("delay_s", delay_s) if delay_s != 0 else None
    return delay_ms, None if not_before is None else round(1000 * not_before.timestamp())


def _turn_of(spec: CommandSpec) -> str:
    """What the server keeps of a command's priority, '' for none.

    Raises:
        InvalidMessage: It is no `Priority`, or does not fit the other options.
    """
    priority = spec.get("priority")
    if priority is None:
        return ""
    if not isinstance(priority, Priority):
        raise InvalidMessage("priority", f"must be a Priority, not {priority!r}")
    _check_wait(spec)
    return priority.turn


def _unique_of(spec: CommandSpec) -> dict[str, str] | None:
    """The options of a command's window, None if it has none.

    Raises:
        InvalidMessage: It is no `Unique`, or does not fit the other options.
    """
    unique = spec.get("unique")
    if unique is None:
        return None
    if not isinstance(unique, Unique):
        raise InvalidMessage("unique", f"must be a Unique, not {unique!r}")
    if unique.keep == "last":
        _check_wait(spec)
    return unique.options


def _check_wait(spec: CommandSpec) -> None:
    """A command that waits has no entry, which `maxlen` and `ttl` are for."""
    for field in ("maxlen", "ttl"):
        if spec.get(field) is not None:
            raise InvalidMessage(field, "does not fit a command that waits")


async def emit_event(
    session: Session,
    stream: str,
    ids: Mapping[str, str],
    payload: Payload,
    *,
    maxlen: int | None,
    ttl: float | None,
) -> str:
    """Write an entry that is not a command.

    Args:
        session: The server.
        stream: The stream.
        ids: Its fields but for payload, trace and timestamp.
        payload: Its payload.
        maxlen: Trim the stream to about this many entries.
        ttl: Seconds after which the stream expires.

    Returns:
        The entry's id.

    Raises:
        InvalidMessage: A field is invalid.
        StageRefused: It is a stage of a request that has a record and is not the caller's.
    """
    options, request_id = session.options, ids["request_id"]
    check_name("stream", stream)
    fields = {
        name: check_name(name, value, required=name != "request_id") for name, value in ids.items()
    }
    fields["payload"] = encode_payload(payload, max_bytes=options.max_payload)
    fields["v"] = SCHEMA_VERSION
    with spans.sending(session.server, stream, fields) as span:
        answer = await session.streams.event(
            options.key(stream),
            options.record_key(request_id),
            fields | trace_fields(),
            token=claim_token.get(),
            maxlen=check_count("maxlen", maxlen),
            ttl_ms=as_milliseconds("ttl", ttl),
        )
        if answer.is_refused:
            raise StageRefused(request_id, fields["status"])
        span.set_attribute("messaging.message.id", answer.entry_id)
        return answer.entry_id


def stage_fields(ids: Mapping[str, str], status: str, payload: str) -> dict[str, str]:
    """The fields of a stage, with the current span's context; the server adds epoch and time."""
    return {
        "correlation_id": ids.get("correlation_id", ""),
        "request_id": ids["request_id"],
        "saga_id": ids.get("saga_id", ""),
        "event_type": ids.get("event_type", ""),
        "status": status,
        "payload": payload,
        "v": SCHEMA_VERSION,
        **trace_fields(),
    }


def failure_payload(error_type: str, message: str, traceback: str = "") -> str:
    """The payload of a `failed` reply."""
    payload = {"error_type": error_type, "message": _safe(message), "trace_id": trace_id()}
    return encode_payload(payload | ({"traceback": _safe(traceback)} if traceback else {}))


def _safe(text: str) -> str:
    return text[:_MESSAGE_LIMIT].encode(errors="replace").decode()
