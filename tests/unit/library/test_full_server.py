"""A server whose memory is full: it takes no new requests, and ends those that it has."""

import asyncio
from functools import partial
from typing import Any

import pytest

from sagastream import Bus, Command, Progress, ServerRefused, multi_stage_reply
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer
from tests.listeners import listening
from tests.plain_client import add_entry
from tests.polling import eventually

pytestmark = pytest.mark.blocking  # it has its own server

STREAM = "work:commands"


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command, progress: Progress) -> dict[str, Any]:
    """Report progress, and return the payload."""
    await progress(0.5)
    return {"size": len(command.payload.get("text", ""))}


async def _fill(bus: Bus, limit_mb: int) -> list[str]:
    """Emit commands until the server refuses one; returns the requests."""
    await bus.command("CONFIG", "SET", "maxmemory", f"{limit_mb}mb")
    ids: list[str] = []
    payload = {"text": "x" * 20_000}
    while True:
        request_id = f"r{len(ids)}"
        try:
            await bus.emit_command(
                STREAM, event_type="work:do", payload=payload, request_id=request_id
            )
        except ServerRefused:
            return ids
        ids.append(request_id)


@pytest.mark.invariant(12)
async def test_a_full_server_ends_what_it_has(own_server: EmbeddedServer) -> None:
    """Everything that was emitted completes without help, entries of plain clients too."""
    async with Bus(own_server.url, call_timeout_s=2.0) as bus:
        await bus.ping()
        await add_entry(
            bus, STREAM, {"event_type": "work:do", "payload": "{}", "request_id": "plain"}
        )
        await add_entry(bus, STREAM, {"event_type": "work:do", "payload": "{"})
        ids = [*await _fill(bus, 25), "plain"]
        assert len(ids) > 100
        async with listening(bus, [work]):
            for request_id in ids:
                outcome = await eventually(
                    partial(bus.outcome, request_id), within_s=20, why="it has ended"
                )
                assert outcome["status"] == "completed"
            assert await bus.command("XLEN", f"{STREAM}:dead") == 1
            pending = await bus.command("XPENDING", STREAM, "sagastream")
            assert pending["pending"] == 0
            # The payloads of ended requests are no longer kept in their records.
            reply = await bus.request_and_reply(STREAM, "work:do", {}, 5)
            assert reply["status"] == "completed"


async def test_a_saga_goes_on_when_there_is_room_again(own_server: EmbeddedServer) -> None:
    """Its journal can be written; its next request waits for memory, and nothing is undone."""
    saga = Saga("trip", tuple(Step(f"s{n}", STREAM, "work:do", lambda _g, _r: {}) for n in (1, 2)))
    async with Bus(own_server.url, call_timeout_s=2.0) as bus, listening(bus, [work]):
        runner = SagaRunner(bus, saga, wake_after_s=0.5)
        saga_id = await runner.start({})
        await bus.command("CONFIG", "SET", "maxmemory", "1mb")
        serving = asyncio.create_task(runner.serve())
        journal = await eventually(
            lambda: _journal_with_entries(runner, saga_id), within_s=10, why="it was intended"
        )
        assert journal.status == "running"
        await bus.command("CONFIG", "SET", "maxmemory", "0")
        outcome = await asyncio.wait_for(runner.wait(saga_id), 20)
        assert outcome.status == "completed"
        serving.cancel()
        await asyncio.wait({serving})


async def _journal_with_entries(runner: SagaRunner, saga_id: str) -> Any:
    journal = await runner.journal(saga_id)
    return journal if journal.entries else None
