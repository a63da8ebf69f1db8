"""Fire the schedules of a listener's streams, when they are due by the server's clock.

Every listener of a stream does this; the server lets each due time be fired once. A listener
learns from its announcements when the next schedule is due, so those cost no further command
while nothing is due.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence

from sagastream._client.firing import fire, plan, put_schedule, schedules_of
from sagastream._client.session import Session
from sagastream._functions.schedule_functions import TakenSchedule
from sagastream._redis.retrying import backoff_delays
from sagastream._schedules.schedule import Schedule
from sagastream.errors import SagastreamError, UnknownLayout

logger = logging.getLogger(__name__)

# How many schedules of a stream are taken at once, and for how long before others may take them.
_TAKE_LIMIT = 100
_TAKE_AGAIN_MS = 2000
# The jitter keeps the listeners of a stream from asking at the same moment.
_JITTER_S = 0.05
_LONGEST_WAIT_S = 3600.0


class Scheduler:
    """Declares schedules, and fires those of some streams.

    Args:
        session: The server.
        streams: The command streams.
        declared: The schedules that code declares.
    """

    def __init__(
        self, session: Session, streams: Sequence[str], declared: Sequence[Schedule]
    ) -> None:
        self._session = session
        self._streams = streams
        self._declared = declared
        self._due_at: float | None = None
        self._has_news = asyncio.Event()
        self._logged: set[tuple[str, str]] = set()

    async def declare(self) -> None:
        """Write the declared schedules; one of a newer release is left alone.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        for schedule in self._declared:
            try:
                if await put_schedule(self._session, schedule, is_declared=True):
                    logger.info("schedule %s is set", schedule.name)
            except UnknownLayout as error:
                logger.warning("schedule %s is not set: %s", schedule.name, error)

    def note_due(self, due_ms: int | None) -> None:
        """Note in how many milliseconds a schedule is due; None if none is."""
        self._due_at = None
        if due_ms is not None:
            self._due_at = asyncio.get_running_loop().time() + due_ms / 1000
        self._has_news.set()

    async def keep_firing(self) -> None:
        """Fire what is due, until cancelled."""
        delays = iter(backoff_delays())
        while True:
            await self._wait_until_due()
            try:
                await self._fire_due()
                delays = iter(backoff_delays())
            except SagastreamError as error:
                self._log_once("", error)
                await asyncio.sleep(next(delays))
                self.note_due(0)

    async def _wait_until_due(self) -> None:
        while True:
            self._has_news.clear()
            wait_s = _LONGEST_WAIT_S
            if self._due_at is not None:
                wait_s = min(wait_s, self._due_at - asyncio.get_running_loop().time())
            if wait_s <= 0:
                return
            jitter_s = random.uniform(0, _JITTER_S)  # noqa: S311 - jitter, not a secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s + jitter_s):
                    await self._has_news.wait()

    async def _fire_due(self) -> None:
        indexes = [schedules_of(self._session, stream) for stream in self._streams]
        taken = await self._session.schedules.take(
            indexes,
            prefix=self._session.options.prefix,
            again_ms=_TAKE_AGAIN_MS,
            limit=_TAKE_LIMIT,
        )
        self.note_due(taken.next_ms)
        for each in taken.schedules:
            try:
                await self._fire(each, taken.now_ms)
            except SagastreamError as error:
                # It is taken again soon, here or by a listener that can fire it.
                self._log_once(each.name, error)
        if taken.schedules:
            self.note_due(0)  # what was fired may be due again already

    async def _fire(self, taken: TakenSchedule, now_ms: int) -> None:
        planned = await asyncio.to_thread(plan, taken.spec, taken.due_ms, now_ms)
        answer = await fire(self._session, planned, taken.spec)
        ids = {"request_id": planned.request_id}
        if answer.outcome == "fired":
            logger.info("schedule %s fired", taken.name, extra=ids)
        elif answer.outcome == "skipped":
            logger.warning(
                "schedule %s: %s is skipped, because %s has not ended",
                *(taken.name, planned.request_id, answer.detail),
                extra=ids,
            )
        elif answer.outcome == "missed":
            logger.warning(
                "schedule %s: firings since %s are missed", taken.name, planned.request_id
            )
        elif answer.outcome == "refused":
            logger.error(
                "schedule %s: %s is not fired, because there was a request with this id (%s)",
                *(taken.name, planned.request_id, answer.detail),
                extra=ids,
            )

    def _log_once(self, name: str, error: Exception) -> None:
        if (name, str(error)) in self._logged:
            return
        self._logged.add((name, str(error)))
        if name:
            logger.error("schedule %s cannot be fired: %s", name, error)
        else:
            logger.warning("schedules cannot be read: %s", error)
