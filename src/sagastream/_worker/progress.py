"""Progress stages of one claim: numbered, and throttled so that the newest wins."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sagastream._redis.retrying import end_tasks
from sagastream._telemetry.trace_context import Trace, trace_of
from sagastream.errors import InvalidMessage, LeaseLost

# Writes one progress stage: fraction, payload, sequence number, trace context.
WriteProgress = Callable[[float, str, int, Trace], Awaitable[None]]


def progress_payload(fraction: float, detail: Mapping[str, Any] | None) -> dict[str, Any]:
    """The payload of a progress stage.

    Raises:
        InvalidMessage: The fraction is not from 0 to 1, or the detail has a key `fraction`.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        raise InvalidMessage("fraction", f"must be a number, not {type(fraction).__name__}")
    if not 0 <= fraction <= 1:
        raise InvalidMessage("fraction", f"must be from 0 to 1, not {fraction}")
    if detail and "fraction" in detail:
        raise InvalidMessage(
            "detail.fraction", "is reserved for the first argument; rename the key"
        )
    return {**(detail or {}), "fraction": float(fraction)}


class ProgressThrottle:
    """Writes progress at most once an interval; progress that comes faster is coalesced.

    Args:
        write: Writes one stage; raises `LeaseLost` if the claim is no longer the current one.
        interval_s: The interval, in seconds.
    """

    def __init__(self, write: WriteProgress, interval_s: float) -> None:
        self._write = write
        self._interval_s = interval_s
        self._sequence = 0
        self._pending: tuple[float, str, Trace] | None = None
        self._written_at = -interval_s
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    async def put(self, fraction: float, payload: str) -> None:
        """Write a stage now, or when the interval has passed.

        Raises:
            LeaseLost: The claim is no longer the current one.
        """
        loop = asyncio.get_running_loop()
        self._pending = (fraction, payload, trace_of())
        due_s = self._written_at + self._interval_s - loop.time()
        if due_s <= 0:
            await self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(due_s, self._write_pending)

    async def close(self) -> None:
        """Write what is pending: the last progress of a finished handler is never dropped.

        Raises:
            LeaseLost: The claim is no longer the current one.
        """
        self._stop_timer()
        if self._writing:
            await asyncio.wait({self._writing})
        await self._flush()

    async def drop(self) -> None:
        """Write nothing more: the claim has ended, or is given back."""
        self._stop_timer()
        if self._writing:
            await end_tasks(self._writing)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _write_pending(self) -> None:
        self._timer = None
        self._writing = asyncio.create_task(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        # The next write, or the lease's renewal, notices a lost lease too.
        with contextlib.suppress(LeaseLost):
            await self._flush()

    async def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        fraction, payload, trace = pending
        self._written_at = asyncio.get_running_loop().time()
        self._sequence += 1
        await self._write(fraction, payload, self._sequence, trace)
