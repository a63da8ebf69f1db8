"""Asking for work from within a test, and watching it being done."""

import asyncio
from collections.abc import Mapping
from typing import Any

from sagastream import Bus
from sagastream.testing import EmbeddedServer
from tests.faults.invariants import STREAM, look


def ask(
    bus: Bus, payload: Mapping[str, Any], request_id: str = "r", timeout: float = 60
) -> "asyncio.Task[dict[str, Any]]":
    """Ask for work, and go on."""
    asked = bus.request_and_reply(
        STREAM, "work:do", payload, timeout, request_id=request_id, correlation_id="c"
    )
    return asyncio.create_task(asked)


def notes(store: EmbeddedServer) -> list[str]:
    """What the handlers wrote down."""
    with look(store) as client:
        return [str(note) for note in client.lrange("notes", 0, -1)]


async def until_noted(store: EmbeddedServer, note: str) -> None:
    """Wait for a handler to write this down."""
    while note not in notes(store):
        await asyncio.sleep(0.01)


async def until_listening(store: EmbeddedServer, count: int) -> None:
    """Wait until so many listeners have announced themselves."""
    with look(store) as client:
        while client.zcard(f"listeners:{STREAM}") < count:
            await asyncio.sleep(0.01)
