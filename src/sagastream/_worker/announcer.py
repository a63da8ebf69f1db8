"""Announce which event types a listener handles, so that others forward commands to it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from sagastream._client.session import Session
from sagastream._redis.deadline import Deadline
from sagastream.errors import SagastreamError

logger = logging.getLogger(__name__)

_TTL_S = 10.0


def announcements_key(session: Session, stream: str) -> str:
    """The key of the sorted set of what live listeners handle on a stream."""
    return session.options.key(f"listeners:{stream}")


class Announcer:
    """The announcements of one listener. They expire when it dies.

    Args:
        session: The server.
        handled: What it handles, as (stream, event type).
        consumer: The listener.
        on_due: Called with in how many milliseconds a schedule of its streams is due; None if none
            is.
    """

    def __init__(
        self,
        session: Session,
        handled: Iterable[tuple[str, str]],
        consumer: str,
        *,
        on_due: Callable[[int | None], None],
    ) -> None:
        self._session = session
        self._on_due = on_due
        self._members = [
            (announcements_key(session, stream), f"{event_type}\n{consumer}")
            for stream, event_type in sorted(handled)
        ]

    async def announce(self) -> None:
        """Announce the event types; the announcements expire after 10 s.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        ttl_ms = round(_TTL_S * 1000)
        self._on_due(await self._session.streams.announce(self._members, ttl_ms=ttl_ms))

    async def withdraw(self, deadline: Deadline) -> None:
        """Withdraw the announcements; without the server they expire."""
        with contextlib.suppress(SagastreamError):
            await self._session.streams.announce(self._members, ttl_ms=0, deadline=deadline)

    async def keep_announcing(self) -> None:
        """Announce again before the announcements expire, until cancelled."""
        while True:
            await asyncio.sleep(_TTL_S / 3)
            try:
                await self.announce()
            except SagastreamError as error:
                logger.debug("cannot announce event types: %s", error)
