"""Run a listener in the process of a test."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sagastream import Bus, CommandListener, Handler
from sagastream.testing import running


@asynccontextmanager
async def listening(
    bus: Bus,
    handlers: Sequence[Handler],
    *,
    concurrency: int = 16,
    drain_s: float = 5.0,
    **options: Any,
) -> AsyncIterator[CommandListener]:
    """Run a listener with its own bus: it shares no connection with the test, like a process.

    Args:
        bus: The server and namespace.
        handlers: What it handles.
        concurrency: As for `CommandListener`.
        drain_s: As for `CommandListener`, but shorter: tests do not wait for handlers.
        options: More options of `CommandListener`.
    """
    async with (
        Bus(bus.url, namespace=bus.namespace) as own,
        running(
            CommandListener(own, handlers, concurrency=concurrency, drain_s=drain_s, **options)
        ) as listener,
    ):
        yield listener
