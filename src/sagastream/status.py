"""The state of command streams, requests and dead letters, for operators and dashboards.

Reading it changes nothing. Ages and leases are by the server's clock.
"""

from dataclasses import dataclass

from sagastream._codec.entries import text_fields
from sagastream._codec.validation import check_name
from sagastream._functions.answers import Expired
from sagastream.bus import Bus
from sagastream.errors import InvalidMessage


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """The state of a command stream for one consumer group.

    Attributes:
        stream: Its name, without the namespace.
        group: The consumer group.
        has_group: Whether the group exists; a listener creates it when it starts.
        depth: Commands that no listener has read yet.
        pending: Commands that were read and have not ended.
        oldest_pending_s: Age of the oldest pending command in seconds; 0 if there is none.
        dead_letters: Dead letters that are kept.
        event_types: What live listeners handle there, sorted.
    """

    stream: str
    group: str
    has_group: bool
    depth: int
    pending: int
    oldest_pending_s: float
    dead_letters: int
    event_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """The state of a request, from its record.

    Attributes:
        request_id: The request.
        status: `pending`, `running`, `completed`, `failed` or `cancelled`.
        stream: The command stream, without the namespace; '' when it has ended.
        event_type: `domain:action`; '' if only its id is remembered.
        consumer: The listener that claimed it last; '' if none has, or when it has ended.
        attempts: How many times it was claimed.
        failures: How many attempts have failed, and were followed by another one.
        lease_s: Seconds that the lease still runs, negative if it has lapsed; None if it was
            never claimed.
        due_s: In how many seconds its next attempt is due; None if it does not wait for one.
        waits_for: The limiter that it waits for: `limit`, `rate` or `paused` and what is limited
            or paused, or `turn`; '' if none.
    """

    request_id: str
    status: str
    stream: str
    event_type: str
    consumer: str
    attempts: int
    lease_s: float | None
    failures: int = 0
    due_s: float | None = None
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A command that lost its handlers too often, or an entry that is not a command.

    Attributes:
        stream: The command stream that it came from.
        letter_id: Its id.
        reason: Why it is a dead letter.
        fields: The fields of the command's entry as text; bytes that are not UTF-8 are replaced.
    """

    stream: str
    letter_id: str
    reason: str
    fields: dict[str, str]


async def stream_status(
    bus: Bus, stream: str, *, group: str = "sagastream", timeout: float | None = None
) -> StreamStatus:
    """Read the state of a command stream.

    Args:
        bus: The server.
        stream: The command stream.
        group: The consumer group of its listeners.
        timeout: Seconds to wait for each answer; None for the bus's `call_timeout_s`.

    Raises:
        ServerUnavailable: The server did not answer in time.
    """
    key = bus.key(check_name("stream", stream))
    now_ms = await _now_ms(bus, timeout)
    exists = await bus.command("EXISTS", key, timeout=timeout)
    groups = await bus.command("XINFO", "GROUPS", key, timeout=timeout) if exists else []
    info = next((info for info in groups if info["name"] == group.encode()), None)
    age_s = 0.0
    if info and info["pending"]:
        oldest = (await bus.command("XPENDING", key, group, timeout=timeout))["min"]
        if oldest:
            age_s = max(0.0, (now_ms - int(oldest.split(b"-")[0])) / 1000)
    members = await bus.command(
        "ZRANGEBYSCORE", bus.key(f"listeners:{stream}"), now_ms, "+inf", timeout=timeout
    )
    return StreamStatus(
        stream=stream,
        group=group,
        has_group=info is not None,
        depth=int(info["lag"] or 0) if info else 0,
        pending=int(info["pending"]) if info else 0,
        oldest_pending_s=age_s,
        dead_letters=int(await bus.command("XLEN", bus.key(f"{stream}:dead"), timeout=timeout)),
        event_types=tuple(
            sorted({member.decode(errors="replace").partition("\n")[0] for member in members})
        ),
    )


async def request_status(bus: Bus, request_id: str) -> RequestStatus | None:
    """Read a request's record; None if the server has none.

    Raises:
        InvalidMessage: The request id is invalid.
        ServerUnavailable: The server did not answer.
    """
    key = bus.key(f"request:{check_name('request_id', request_id)}")
    found = await bus.session().requests.inspect(key)
    if found is None:
        return None
    if isinstance(found, Expired):
        return RequestStatus(request_id, found.status, "", "", "", 0, None)
    lease_s = due_s = None
    if found["consumer"]:
        lease_s = (int(found["lease_until"]) - await _now_ms(bus)) / 1000
    if found["status"] == "pending" and found["due"] != "0":
        due_s = (int(found["due"]) - await _now_ms(bus)) / 1000
    return RequestStatus(
        request_id=request_id,
        status=found["status"],
        stream=found["stream"].removeprefix(bus.key("")),
        event_type=found["event_type"],
        consumer=found["consumer"],
        attempts=int(found["attempts"]),
        lease_s=lease_s,
        failures=int(found["failures"]),
        due_s=due_s,
        waits_for=found["waits"],
    )


async def oldest_unread_s(bus: Bus, found: StreamStatus) -> float:
    """The age of the oldest command that no listener has read, in seconds; 0 if there is none.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    key, first = bus.key(found.stream), "-"
    if found.has_group:
        if not found.depth:
            return 0.0
        groups = await bus.command("XINFO", "GROUPS", key)
        group = next((each for each in groups if each["name"] == found.group.encode()), None)
        if group is None:
            return 0.0
        first = f"({group['last-delivered-id'].decode()}"
    entries = await bus.command("XRANGE", key, first, "+", "COUNT", 1)
    if not entries:
        return 0.0
    return max(0.0, (await _now_ms(bus) - int(entries[0][0].partition(b"-")[0])) / 1000)


async def dead_letters(
    bus: Bus, stream: str, *, letter_id: str = "", newest: int | None = None, before: str = ""
) -> list[DeadLetter]:
    """Read the dead letters of a command stream.

    Args:
        bus: The server.
        stream: The command stream.
        letter_id: The one to read; '' for all.
        newest: Read at most this many, the newest first; None for all, the oldest first.
        before: With `newest`, only those before this id; '' for the newest of all.

    Raises:
        InvalidMessage: `letter_id` or `before` is not the id of an entry.
        ServerUnavailable: The server did not answer.
    """
    key = bus.key(f"{check_name('stream', stream)}:dead")
    for name, value in (("letter_id", letter_id), ("before", before)):
        if value and not _is_entry_id(value):
            raise InvalidMessage(name, f"{value[:40]!r} is not an entry id, such as 1700-0")
    if letter_id and "-" not in letter_id:
        letter_id += "-0"  # of all entries of that millisecond, the server would return each
    if newest is not None:
        entries = await bus.command(
            "XREVRANGE", key, f"({before}" if before else "+", "-", "COUNT", newest
        )
    else:
        entries = await bus.command("XRANGE", key, letter_id or "-", letter_id or "+")
    letters = []
    for entry_id, raw in entries:
        fields = text_fields(raw)
        reason = fields.pop("dead_reason", "unknown")
        fields.pop("dead_entry_id", None)
        letters.append(DeadLetter(stream, entry_id.decode(), reason, fields))
    return letters


def _is_entry_id(text: str) -> bool:
    ms, dash, seq = text.partition("-")
    return text.isascii() and ms.isdecimal() and (not dash or seq.isdecimal())


async def _now_ms(bus: Bus, timeout: float | None = None) -> int:
    seconds, micros = await bus.command("TIME", timeout=timeout)
    return int(seconds) * 1000 + int(micros) // 1000
