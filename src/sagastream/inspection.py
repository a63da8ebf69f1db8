"""Find what is on a server: streams, listeners and requests, for operators and dashboards.

Keys are found by SCAN, in steps that never block the server, so a key that comes or goes
meanwhile may be missed. Nothing is changed.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from sagastream._codec.entries import decode_reply
from sagastream._codec.validation import check_name
from sagastream._functions.answers import Expired
from sagastream._telemetry.trace_context import trace_id_of
from sagastream.bus import Bus
from sagastream.errors import InvalidMessage, SagastreamError, ServerError
from sagastream.message import TERMINAL_STAGES
from sagastream.status import StreamStatus, stream_status

# A step of SCAN takes the server about a millisecond.
_KEYS_PER_SCAN = 5000
_KEYS_PER_STEP = 500
_READS_AT_ONCE = 100
_CANDIDATES = 5
_NOT_COMMANDS = (":dead", ":stages", ":replies", ":journal", ":instance")


class NoSuchId(SagastreamError):
    """Nothing on the server has that id, or an id that begins so.

    Attributes:
        what: What was looked for, such as `request`.
        prefix: The id, or its beginning.
    """

    def __init__(self, what: str, prefix: str) -> None:
        super().__init__(f"there is no {what} {prefix}, and none whose id begins so")
        self.what = what
        self.prefix = prefix

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.what, self.prefix)


class AmbiguousId(SagastreamError):
    """Several ids begin so.

    Attributes:
        what: What was looked for, such as `request`.
        prefix: The beginning.
        candidates: Some of the ids.
    """

    def __init__(self, what: str, prefix: str, candidates: tuple[str, ...]) -> None:
        super().__init__(
            f"several {what}s begin with {prefix}: {', '.join(candidates)}; give more of the id"
        )
        self.what = what
        self.prefix = prefix
        self.candidates = candidates

    def __reduce__(self) -> tuple[type, tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.what, self.prefix, self.candidates)


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """A live listener.

    Attributes:
        listener: Its id, new at every start.
        handles: What it handles: its event types by stream.
        pending: How many commands it has read that have not ended.
    """

    listener: str
    handles: dict[str, tuple[str, ...]]
    pending: int


@dataclass(frozen=True, slots=True)
class RequestDetails:
    """A request, from its record.

    Attributes:
        request_id: The request.
        status: `pending` (also when its handler has given it back), `running`, `completed`,
            `failed` or `cancelled`.
        event_type: `domain:action`; '' if only its id is remembered.
        stream: The command stream, without the namespace; '' when it has ended.
        correlation_id: One id for everything that belongs together.
        saga_id: Its saga, '' if none.
        attempt: How many times it was claimed.
        listener: The one that claimed it last; '' if none has, or when it has ended.
        time_s: When it was emitted, or when it has ended: in seconds since the Unix epoch, by the
            server's clock.
        progress: The payload of its last progress; {} if there is none, or when it has ended.
        result: The payload of its terminal reply, {} before.
        entry_id: Its command's entry.
        failures: How many attempts have failed, by its handler's retry policy.
        due_time_s: When its next attempt begins, in seconds since the Unix epoch, by the server's
            clock; 0 if it does not wait for one.
        waits_for: The limiter that it waits for, as in `RequestStatus`.
        failure: Type and message of the last attempt that failed, `error_type` and `message`; {} if
            none has, or when it has ended.
        trace_id: 32 hex digits; '' if it was not traced.
    """

    request_id: str
    status: str
    event_type: str = ""
    stream: str = ""
    correlation_id: str = ""
    saga_id: str = ""
    attempt: int = 0
    listener: str = ""
    time_s: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    entry_id: str = ""
    failures: int = 0
    due_time_s: float = 0.0
    waits_for: str = ""
    failure: dict[str, Any] = field(default_factory=dict)
    trace_id: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether its terminal reply is written."""
        return self.status in TERMINAL_STAGES


@dataclass(frozen=True, slots=True)
class Page:
    """Some requests, and where the next ones are.

    Attributes:
        requests: The requests, in no order.
        after: Give it to `find_requests` for the next page; '' if there is none.
        is_complete: Whether the page is full, or the last one: it is not if the time was over.
    """

    requests: tuple[RequestDetails, ...]
    after: str
    is_complete: bool = True


async def scan(bus: Bus, pattern: str, kind: str = "") -> AsyncIterator[str]:
    """The names of keys, without the namespace; a name may come twice.

    Args:
        bus: The server.
        pattern: Without the namespace, as for SCAN.
        kind: Only keys of this type.
    """
    cursor, prefix = 0, bus.key("")
    options = ["TYPE", kind] if kind else []
    while True:
        cursor, keys = await bus.command(
            *("SCAN", cursor, "MATCH", escaped(prefix) + pattern, "COUNT", _KEYS_PER_SCAN), *options
        )
        for key in keys:
            yield key.decode(errors="replace").removeprefix(prefix)
        if not int(cursor):
            return


def escaped(text: str) -> str:
    """A text without meaning in a pattern."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in text)


async def command_streams(bus: Bus) -> list[str]:
    """The names of the command streams: a listener is there, or has been, or its name says so."""
    found, announced = set[str](), set[str]()
    async for name in scan(bus, "listeners:*", "zset"):
        announced.add(name.removeprefix("listeners:"))
    async for name in scan(bus, "*", "stream"):
        if name.startswith("replies:") or name.endswith(_NOT_COMMANDS):
            continue
        if name.endswith(":commands") or name in announced or await _has_listeners(bus, name):
            found.add(name)
    return sorted(found | announced)


async def _has_listeners(bus: Bus, stream: str) -> bool:
    try:
        groups = await bus.command("XINFO", "GROUPS", bus.key(stream))
    except ServerError:
        return False  # it is gone meanwhile
    return any(not group["name"].startswith(b"reader-") for group in groups)


async def streams(bus: Bus, *, group: str = "sagastream") -> list[StreamStatus]:
    """The state of all command streams.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    names = await command_streams(bus)
    return list(await asyncio.gather(*(stream_status(bus, name, group=group) for name in names)))


async def listeners(bus: Bus, *, group: str = "sagastream") -> list[ListenerStatus]:
    """The live listeners, by id.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    handles: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    pending: dict[str, int] = defaultdict(int)
    seconds, _ = await bus.command("TIME")
    async for name in scan(bus, "listeners:*", "zset"):
        stream = name.removeprefix("listeners:")
        live = await bus.command("ZRANGEBYSCORE", bus.key(name), int(seconds) * 1000, "+inf")
        for member in live:
            event_type, _, listener = member.decode(errors="replace").partition("\n")
            handles[listener][stream].append(event_type)
        for consumer in await _consumers(bus, stream, group):
            pending[consumer["name"].decode(errors="replace")] += int(consumer["pending"])
    return [
        ListenerStatus(
            listener,
            {stream: tuple(sorted(set(kinds))) for stream, kinds in sorted(by_stream.items())},
            pending[listener],
        )
        for listener, by_stream in sorted(handles.items())
    ]


async def _consumers(bus: Bus, stream: str, group: str) -> list[Any]:
    try:
        found: list[Any] = await bus.command("XINFO", "CONSUMERS", bus.key(stream), group)
    except ServerError:
        return []  # there is no stream or no group, and nothing is pending
    return found


async def read_request(bus: Bus, request_id: str) -> RequestDetails | None:
    """Read a request's record; None if the server has none.

    Raises:
        InvalidMessage: The id is invalid.
        UnknownLayout: A newer release wrote the record.
        ServerUnavailable: The server did not answer.
    """
    key = bus.key(f"request:{check_name('request_id', request_id)}")
    found = await bus.session().requests.inspect(key)
    if found is None:
        return None
    if isinstance(found, Expired):
        return RequestDetails(request_id, found.status, time_s=found.ended_s)
    status, progress, failure = found["status"], None, None
    if status == "running" and found["lease_until"] == "0":
        status = "pending"  # its handler has given it back, and no other has claimed it
    has_ended = status in TERMINAL_STAGES
    try:
        if status == "running" and int(found["seq"]):
            progress = await bus.command("HGET", key, "progress")
        if int(found["failures"]) and not has_ended:
            failure = await bus.command("HGET", key, "failure")
    except ServerError:
        # It has ended meanwhile: its record is no longer a hash.
        return await read_request(bus, request_id)
    return RequestDetails(
        request_id=request_id,
        status=status,
        event_type=found["event_type"],
        stream=found["stream"].removeprefix(bus.key("")),
        correlation_id=found["correlation_id"],
        saga_id=found["saga_id"],
        attempt=int(found["attempts"]),
        listener=found["consumer"],
        time_s=int(found["timestamp"] or 0) / 1000,
        progress=_payload(bus, progress) if progress else {},
        result=_payload(bus, found["payload"]) if has_ended else {},
        entry_id=found["entry_id"],
        failures=int(found["failures"]),
        due_time_s=int(found["due"]) / 1000 if status == "pending" else 0.0,
        waits_for=found["waits"] if status == "pending" else "",
        failure=_payload(bus, failure) if failure else {},
        trace_id=trace_id_of({"traceparent": found["traceparent"]}),
    )


def _payload(bus: Bus, text: str | bytes) -> dict[str, Any]:
    """A payload; {} if it is malformed, as a list must not fail for one of its rows."""
    raw = text.encode() if isinstance(text, str) else text
    try:
        stage = decode_reply(
            {b"request_id": b"r", b"status": b"progress", b"payload": raw},
            max_bytes=max(bus.max_payload, len(raw)),
        )
    except InvalidMessage:
        return {}
    payload: dict[str, Any] = stage["payload"]
    return payload


async def find_requests(
    bus: Bus,
    *,
    limit: int = 50,
    after: str = "",
    prefix: str = "",
    within_s: float | None = None,
    fits: Callable[[RequestDetails], bool] = lambda _: True,
) -> Page:
    """Find requests whose records are kept.

    Args:
        bus: The server.
        limit: At most this many; 0 for all.
        after: The `after` of the page before; '' for the first.
        prefix: Only requests whose id begins so.
        within_s: Return what was found after this many seconds; None for no limit.
        fits: Which requests are wanted.

    Raises:
        InvalidMessage: `after` is not from a page.
        ServerUnavailable: The server did not answer.
    """
    cursor, _, skipped = (after or "0-0").partition("-")
    if not (cursor.isdecimal() and skipped.isdecimal()):
        raise InvalidMessage("after", f"{after[:40]!r} is not from a page before")
    found: dict[str, RequestDetails] = {}
    start = bus.key("request:")
    skip, pattern = int(skipped), f"{escaped(start)}{escaped(prefix)}*"
    ends_at = math.inf if within_s is None else time.monotonic() + within_s
    count = _KEYS_PER_SCAN if prefix else _KEYS_PER_STEP
    while True:
        following, keys = await bus.command("SCAN", cursor, "MATCH", pattern, "COUNT", count)
        ids = [key.decode(errors="replace").removeprefix(start) for key in keys]
        for first in range(skip, len(ids), _READS_AT_ONCE):
            some = ids[first : first + _READS_AT_ONCE]
            read = await asyncio.gather(*(_readable(bus, each) for each in some))
            for number, request in enumerate(read):
                if request is not None and request.request_id not in found and fits(request):
                    found[request.request_id] = request
                if limit and len(found) >= limit:
                    return Page(tuple(found.values()), f"{int(cursor)}-{first + number + 1}")
            if time.monotonic() > ends_at:
                place = f"{int(cursor)}-{first + len(some)}"
                return Page(tuple(found.values()), place, is_complete=False)
        cursor, skip = following, 0
        if not int(cursor):
            return Page(tuple(found.values()), "")
        if time.monotonic() > ends_at:
            return Page(tuple(found.values()), f"{int(cursor)}-0", is_complete=False)


async def _readable(bus: Bus, request_id: str) -> RequestDetails | None:
    if request_id.endswith(":stages"):
        return None
    try:
        return await read_request(bus, request_id)
    except SagastreamError as error:
        # One that cannot be read hides no other.
        return RequestDetails(request_id, "unreadable", result={"message": str(error)})


async def resolve_request(bus: Bus, prefix: str) -> RequestDetails:
    """The request with that id, or the only one whose id begins so.

    Raises:
        NoSuchId: There is none.
        AmbiguousId: There are several.
        ServerUnavailable: The server did not answer.
    """
    if request := await read_request(bus, prefix):
        return request
    names = set[str]()
    async for name in scan(bus, f"request:{escaped(prefix)}*"):
        if not name.endswith(":stages"):
            names.add(name.removeprefix("request:"))
    request = await read_request(bus, only_one("request", prefix, names))
    if request is None:
        raise NoSuchId("request", prefix)
    return request


def only_one(what: str, prefix: str, ids: set[str]) -> str:
    """The only id.

    Raises:
        NoSuchId: There is none.
        AmbiguousId: There are several.
    """
    if not ids:
        raise NoSuchId(what, prefix)
    if len(ids) > 1:
        raise AmbiguousId(what, prefix, tuple(sorted(ids)[:_CANDIDATES]))
    return ids.pop()
