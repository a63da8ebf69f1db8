"""The state of each stream and of the sagas; one that cannot be read hides no other."""

import asyncio
from dataclasses import dataclass

from sagastream.bus import Bus
from sagastream.errors import ServerError
from sagastream.flow_control import pauses, queues
from sagastream.inspection import ListenerStatus, command_streams
from sagastream.saga.administration import saga_names
from sagastream.status import StreamStatus, oldest_unread_s, stream_status


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A command stream.

    Attributes:
        stream: Its name.
        status: Its state; None if it cannot be read.
        depth: Commands that no listener has read; all of them if there never was a listener.
        waiting: Requests that wait for others, for their time, or for their next attempt.
        is_paused: Whether anything of it is paused.
        oldest_s: The age of the oldest command that has not ended, in seconds.
        listeners: How many live listeners handle something there.
        problem: Why it cannot be read; '' if it can.
    """

    stream: str
    status: StreamStatus | None = None
    depth: int = 0
    waiting: int = 0
    is_paused: bool = False
    oldest_s: float = 0.0
    listeners: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SagaCount:
    """How many sagas of a declaration are in each state; None if an index cannot be read."""

    name: str
    stuck: int | None
    open: int | None
    ended: int | None


async def stream_rows(bus: Bus, live: list[ListenerStatus], *, group: str) -> list[StreamRow]:
    """The command streams by name.

    Args:
        bus: The server.
        live: The live listeners.
        group: The consumer group of the listeners.

    Raises:
        ServerUnavailable: The server did not answer.
    """

    async def row(name: str) -> StreamRow:
        try:
            found = await stream_status(bus, name, group=group)
            depth = found.depth
            if not found.has_group:
                depth = int(await bus.command("XLEN", bus.key(name)))
            unread_s = await oldest_unread_s(bus, found)
            waiting = sum(queue.waiting for queue in await queues(bus, name))
            is_paused = bool(await pauses(bus, name))
        except (ServerError, ValueError) as error:
            return StreamRow(name, problem=str(error))
        return StreamRow(
            name,
            found,
            depth,
            waiting,
            is_paused,
            max(found.oldest_pending_s, unread_s),
            sum(name in each.handles for each in live),
        )

    return list(await asyncio.gather(*(row(name) for name in await command_streams(bus))))


async def saga_counts(bus: Bus) -> list[SagaCount]:
    """How many sagas there are, by declaration.

    Raises:
        ServerUnavailable: The server did not answer.
    """

    async def count(name: str, state: str) -> int | None:
        try:
            return int(await bus.command("ZCARD", bus.key(f"sagas:{name}:{state}")))
        except ServerError:
            return None

    return [
        SagaCount(name, *[await count(name, state) for state in ("stuck", "open", "ended")])
        for name in sorted(await saga_names(bus))
    ]
