"""Send requests from the test process, and read the log that the handlers write."""

import asyncio
from collections.abc import Mapping
from typing import Any

from sagastream import Bus
from sagastream.testing import EmbeddedServer
from tests.faults.invariants import STREAM
from tests.plain_client import connect
from tests.polling import eventually

_WITHIN_S = 60.0


def send_request(
    bus: Bus, payload: Mapping[str, Any], request_id: str = "r", timeout: float = 60
) -> "asyncio.Task[dict[str, Any]]":
    """Send a request; the task returns its completed reply."""
    reply = bus.request_and_reply(
        STREAM, "work:do", payload, timeout, request_id=request_id, correlation_id="c"
    )
    return asyncio.create_task(reply)


def handler_log(store: EmbeddedServer) -> list[str]:
    """Read what the handlers logged on the server, such as `begun 1` for epoch 1."""
    with connect(store.url) as client:
        return [str(line) for line in client.lrange("log", 0, -1)]


async def wait_for_log(store: EmbeddedServer, line: str) -> None:
    """Wait until a handler has logged a line."""
    await eventually(
        lambda: line in handler_log(store), within_s=_WITHIN_S, why=f"a handler logged {line!r}"
    )


async def wait_for_listeners(store: EmbeddedServer, count: int) -> None:
    """Wait until this many listeners have announced their event type."""
    with connect(store.url) as client:
        await eventually(
            lambda: client.zcard(f"listeners:{STREAM}") >= count,
            within_s=_WITHIN_S,
            why=f"{count} listeners announced themselves",
        )


async def wait_for_commands(store: EmbeddedServer, count: int) -> None:
    """Wait until this many commands are in the stream."""
    with connect(store.url) as client:
        await eventually(
            lambda: client.xlen(STREAM) >= count,
            within_s=_WITHIN_S,
            why=f"{count} commands are in the stream",
        )
