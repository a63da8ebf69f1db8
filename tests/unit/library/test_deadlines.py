"""No call outlives its timeout, whatever the server does, and at whatever command."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    Progress,
    ReplyTimeout,
    SagastreamError,
    ServerUnavailable,
    multi_stage_reply,
)
from sagastream.status import dead_letters, request_status, stream_status
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.listeners import listening
from tests.polling import eventually

pytestmark = pytest.mark.blocking  # the proxy makes its folder

STREAM = "work:commands"
TIMEOUT_S = 0.4
GRACE_S = 0.2


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(_command: Command, progress: Progress) -> dict[str, Any]:
    """Report progress, and end."""
    await progress(0.5)
    return {}


async def _request(bus: Bus) -> None:
    await bus.request_and_reply(STREAM, "work:do", {}, TIMEOUT_S, on_progress=lambda _: None)


async def _request_unhandled(bus: Bus) -> None:
    await bus.request_and_reply("none:commands", "none:do", {}, TIMEOUT_S)


async def _read(bus: Bus) -> None:
    await bus.emit_command(
        STREAM,
        event_type="work:do",
        payload={},
        correlation_id="c",
        request_id="read",
        reply_stream="work:replies",
    )
    await bus.read_replies("work:replies", "c", "read", TIMEOUT_S)


async def _read_nothing(bus: Bus) -> None:
    await bus.read_replies("work:none", "c", "none", TIMEOUT_S)


async def _emit(bus: Bus) -> None:
    await bus.emit_command(STREAM, event_type="work:do", payload={})


async def _event(bus: Bus) -> None:
    await bus.emit_event(
        "work:events", event_type="work:done", status="x", payload={}, correlation_id="c"
    )


async def _cancel(bus: Bus) -> None:
    await bus.cancel("none")


async def _outcome(bus: Bus) -> None:
    await bus.outcome("none")


async def _entries(bus: Bus) -> None:
    await bus.read_entries({"work:events": "0-0"}, block_s=0.05)


async def _command(bus: Bus) -> None:
    await bus.command("GET", bus.key("x"), timeout=TIMEOUT_S)


async def _ping(bus: Bus) -> None:
    await bus.ping()


async def _status(bus: Bus) -> None:
    await stream_status(bus, STREAM, timeout=TIMEOUT_S)


async def _request_status(bus: Bus) -> None:
    await request_status(bus, "none")


async def _dead_letters(bus: Bus) -> None:
    await dead_letters(bus, STREAM)


# Each call, and how many waits of `TIMEOUT_S` it has.
CALLS: dict[str, tuple[Callable[[Bus], Awaitable[None]], int]] = {
    "request_and_reply": (_request, 1),
    "request_and_reply without a listener": (_request_unhandled, 1),
    "emit_command and read_replies": (_read, 2),
    "read_replies without a reply": (_read_nothing, 1),
    "emit_command": (_emit, 1),
    "emit_event": (_event, 1),
    "cancel": (_cancel, 1),
    "outcome": (_outcome, 1),
    "read_entries": (_entries, 1),
    "command": (_command, 1),
    "ping": (_ping, 1),
    "stream_status": (_status, 1),
    "request_status": (_request_status, 1),
    "dead_letters": (_dead_letters, 1),
}


@pytest.mark.invariant(11)
@pytest.mark.parametrize("name", CALLS)
async def test_no_call_outlives_its_timeout(own_server: EmbeddedServer, name: str) -> None:
    """The server freezes at each command in turn, until the call no longer gets there.

    A call is tried again before it counts as late: the machine may have been busy.
    """
    call, waits = CALLS[name]
    frozen_at, late, ended = 1, 0, False
    async with Bus(own_server.url) as bus, listening(bus, [work]):
        await bus.request_and_reply(STREAM, "work:do", {}, 5)
        while not ended:

            def plan(number: int, _command: Any, at: int = frozen_at) -> Fault:
                return Fault.HALF_OPEN if number >= at else Fault.NONE

            with FaultProxy(bus.url, plan) as proxy:
                frozen = Bus(proxy.url, call_timeout_s=TIMEOUT_S)
                began = time.monotonic()
                with contextlib.suppress(SagastreamError):
                    await call(frozen)
                took = time.monotonic() - began
                ended = len(proxy.commands) < frozen_at
            await frozen.close()
            late = late + 1 if took > waits * TIMEOUT_S + GRACE_S else 0
            assert late < 4, f"frozen at command {frozen_at} it took {took:.2f} s"
            frozen_at += not late
            assert frozen_at < 60
    assert frozen_at > 1


async def test_a_cancelled_reader_is_cancelled(bus: Bus) -> None:
    """A cancellation stays one, and at once, though the server is frozen."""
    plan_from = 6

    def plan(number: int, _command: Any) -> Fault:
        return Fault.HALF_OPEN if number >= plan_from else Fault.NONE

    with FaultProxy(bus.url, plan) as proxy:
        frozen = Bus(proxy.url, namespace=bus.namespace)
        reading = asyncio.create_task(frozen.read_replies("work:replies", "c", "r", 30))
        await eventually(
            lambda: len(proxy.commands) >= plan_from, within_s=5, why="the server is frozen"
        )
        reading.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert time.monotonic() - began < GRACE_S
    await frozen.close()


async def test_a_timeout_of_on_progress_is_not_ours(bus: Bus) -> None:
    """What the callback raises is raised as it is, a `TimeoutError` too."""

    def late(_stage: dict[str, Any]) -> None:
        raise TimeoutError("mine")

    async with listening(bus, [work]):
        with pytest.raises(TimeoutError, match="mine") as raised:
            await bus.request_and_reply(STREAM, "work:do", {}, 5, on_progress=late)
    assert not isinstance(raised.value, ReplyTimeout)


async def test_an_emit_that_was_not_confirmed_is_no_reply_timeout() -> None:
    """Nobody knows whether the request exists: the server did not answer."""
    async with Bus("redis://127.0.0.1:1") as bus:
        with pytest.raises(ServerUnavailable, match=r"timed out after 0\.3 s"):
            await bus.request_and_reply(STREAM, "work:do", {}, 0.3)
