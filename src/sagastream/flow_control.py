"""Pause and resume what a stream's listeners begin, and see what waits and why.

A target is a whole stream, one of its event types, or a key: `customer_id=7` for a limit per
`customer_id`, `fairness_key=acme` for a priority. What runs already goes on to its end.
"""

import asyncio
import json
from dataclasses import dataclass

from sagastream._codec.validation import check_name
from sagastream.bus import Bus
from sagastream.errors import InvalidMessage

_ALL = "*"
_CLASSES = (1, 2, 3)
# The kinds of limiters, and what an operator calls them.
_REASONS = {"limit": "limit", "rate": "rate", "turn": "priority", "paused": "paused"}


@dataclass(frozen=True, slots=True)
class Pause:
    """A target that is paused.

    Attributes:
        stream: The command stream.
        target: `*` for the whole stream, an event type, or a key as `customer_id=7`.
        since: When it was paused, in seconds since the Unix epoch, by the server's clock; 0.0 if that
            is not known.
        reason: Why, in the words of who paused it; '' if nobody said.
    """

    stream: str
    target: str
    since: float
    reason: str


@dataclass(frozen=True, slots=True)
class Queue:
    """Requests of a stream that wait for the same thing.

    Attributes:
        stream: The command stream.
        reason: `limit`, `rate`, `priority` or `paused`; `not before` for requests that are due
            later, at their time or for their next attempt.
        key: What is limited or paused: an event type, with the key that counts by itself, as
            `orders:charge customer_id=7`; '' for `priority` and `not before`.
        waiting: How many requests wait.
        in_use: How many permits are in use; 0 for `paused` and `not before`.
    """

    stream: str
    reason: str
    key: str
    waiting: int
    in_use: int


async def pause(
    bus: Bus, stream: str, *, event_type: str = "", key: str = "", reason: str = ""
) -> None:
    """Let no request of a target begin until `resume`. Idempotent.

    Args:
        bus: The server.
        stream: The command stream.
        event_type: Pause only this event type; '' with `key` '' for the whole stream.
        key: Pause only this key, as `customer_id=7` or `fairness_key=acme`.
        reason: Why, for those who look at it later.

    Raises:
        InvalidMessage: A name is invalid.
        ServerUnavailable: The server did not answer.
    """
    target = _target(event_type, key)
    stream_key = bus.key(check_name("stream", stream))
    await bus.session().streams.pause(stream_key, target, reason)


async def resume(bus: Bus, stream: str, *, event_type: str = "", key: str = "") -> bool:
    """Let the requests of a target begin again, in the order in which they would have begun.

    Returns:
        Whether it was paused.

    Raises:
        InvalidMessage: A name is invalid.
        ServerUnavailable: The server did not answer.
    """
    target = _target(event_type, key)
    return await bus.session().streams.resume(bus.key(check_name("stream", stream)), target)


async def pauses(bus: Bus, stream: str) -> list[Pause]:
    """What of a stream is paused, by target.

    Raises:
        InvalidMessage: The name of the stream is invalid.
        ServerUnavailable: The server did not answer.
    """
    found = await bus.command("HGETALL", bus.key(f"{check_name('stream', stream)}:paused"))
    return [_pause(stream, _text(target), found[target]) for target in sorted(found)]


async def queues(bus: Bus, stream: str, *, limit: int = 1000) -> list[Queue]:
    """What waits at a stream, and for what; the longest queue first.

    Args:
        bus: The server.
        stream: The command stream.
        limit: At most this many queues, those that a listener looks at first.

    Raises:
        InvalidMessage: The name of the stream is invalid.
        ServerUnavailable: The server did not answer.
    """
    base = bus.key(check_name("stream", stream))

    async def queue(name: str) -> Queue:
        kind, _, key = name.partition(" ")
        keys = (*(f"queue:{number}" for number in _CLASSES), "permits")
        *lengths, in_use = await asyncio.gather(
            *(bus.command("ZCARD", f"{base}:limit:{name}:{each}") for each in keys)
        )
        return Queue(stream, _REASONS.get(kind, kind), key, sum(lengths), in_use)

    names = await bus.command("ZRANGE", f"{base}:limits", 0, limit - 1)
    found = list(await asyncio.gather(*(queue(_text(name)) for name in names)))
    due = int(await bus.command("GET", f"{base}:later:length") or 0)
    if due:
        found.append(Queue(stream, "not before", "", due, 0))
    return sorted(found, key=lambda queue: (-queue.waiting, queue.reason, queue.key))


def _target(event_type: str, key: str) -> str:
    if event_type and key:
        raise InvalidMessage("key", "pauses all event types; give either `event_type` or `key`")
    if key and ("=" not in key or not key.isprintable()):
        raise InvalidMessage("key", f"{key[:80]!r} is not NAME=VALUE, such as customer_id=7")
    return key or (check_name("event_type", event_type) if event_type else _ALL)


def _pause(stream: str, target: str, description: bytes) -> Pause:
    try:
        fields = json.loads(description)
        return Pause(stream, target, float(fields["since"]), str(fields["reason"]))
    except (ValueError, TypeError, KeyError):
        return Pause(stream, target, 0.0, "")


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
