"""A clean failover, and data that are lost though others went on."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sagastream import Bus, Command, DataLost, Progress, ReplyTimeout, multi_stage_reply
from sagastream.testing import EmbeddedServer
from tests.failover import Names, Pair, fail_over
from tests.listeners import listening
from tests.plain_client import connect
from tests.polling import eventually, eventually_sync

pytestmark = pytest.mark.blocking  # servers start and fail over

STREAM = "work:commands"


@asynccontextmanager
async def _work(bus: Bus, begun: asyncio.Event, go: asyncio.Event) -> AsyncIterator[list[int]]:
    epochs: list[int] = []

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def work(command: Command, progress: Progress) -> dict[str, Any]:
        epochs.append(command.attempt)
        begun.set()
        await go.wait()
        await progress(0.5)
        return {"attempt": command.attempt}

    async with listening(bus, [work], lease_s=1.0):
        yield epochs


@pytest.mark.invariant(12)
async def test_a_clean_failover_is_followed(pair: Pair, names: Names) -> None:
    """The old primary lives on as a replica; every connection goes where the name leads then."""
    begun, go = asyncio.Event(), asyncio.Event()
    async with Bus(names.url) as bus, _work(bus, begun, go) as epochs:
        reply = asyncio.create_task(bus.request_and_reply(STREAM, "work:do", {}, 30))
        await asyncio.wait_for(begun.wait(), 10)
        await asyncio.to_thread(fail_over, pair)
        names.port = pair.second_port
        await asyncio.sleep(1.5)  # more than a lease: the lease's thread has to follow too
        go.set()
        assert (await reply)["payload"] == {"attempt": 1}
        began = time.monotonic()
        for _ in range(5):
            assert (await bus.request_and_reply(STREAM, "work:do", {}, 10))["status"] == "completed"
        assert time.monotonic() - began < 5
        assert epochs == [1] * 6, "no claim was lost"
        await asyncio.to_thread(_no_client_stays, pair.first)  # while everything runs


def _no_client_stays(old_primary: EmbeddedServer) -> None:
    with connect(old_primary.url) as old:
        eventually_sync(
            # One is this client, and one the link to the new primary.
            lambda: {each["flags"] for each in old.client_list()} == {"U", "M"},
            within_s=5,
            why="no connection stays on the old node",
        )


@pytest.mark.invariant(12)
async def test_a_name_that_leads_late_is_followed_when_it_does(pair: Pair, names: Names) -> None:
    """Until then a call waits, and says at its timeout that the node takes no writes."""
    begun, go = asyncio.Event(), asyncio.Event()
    go.set()
    async with Bus(names.url) as bus, _work(bus, begun, go):
        await bus.request_and_reply(STREAM, "work:do", {}, 10)
        await asyncio.to_thread(fail_over, pair)
        reply = asyncio.create_task(bus.request_and_reply(STREAM, "work:do", {}, 30))
        done, _ = await asyncio.wait({reply}, timeout=0.5)
        assert not done
        names.port = pair.second_port
        assert (await asyncio.wait_for(reply, 10))["status"] == "completed"


@pytest.mark.invariant(12)
async def test_lost_data_are_reported_though_others_emitted_as_much() -> None:
    """The record of a request is gone, and the count of commands is as high as before."""
    with EmbeddedServer(aof=True, fsync="always") as server:
        async with Bus(server.url) as bus, Bus(server.url) as other:
            await other.emit_command(STREAM, event_type="work:do", payload={})
            waiting = [
                asyncio.create_task(
                    bus.request_and_reply(STREAM, "work:do", {}, 30, request_id=id_)
                )
                for id_ in ("kept", "lost")
            ]
            record = bus.key("request:lost")
            await eventually(lambda: bus.command("EXISTS", record), within_s=5, why="it is emitted")
            # An older state without the request, in which others have gone on.
            await bus.command("DEL", record)
            for _ in range(3):
                await other.emit_command(STREAM, event_type="work:do", payload={})
            began = time.monotonic()
            with pytest.raises(DataLost, match="no record of request lost any more"):
                await waiting[1]
            assert time.monotonic() - began < 5
            assert not waiting[0].done()
            waiting[0].cancel()


@pytest.mark.invariant(12)
async def test_a_timeout_says_that_the_record_is_lost() -> None:
    """It is noticed at the timeout at the latest."""
    with EmbeddedServer() as server:
        async with Bus(server.url) as bus:
            waiting = asyncio.create_task(
                bus.request_and_reply(STREAM, "work:do", {}, 2.0, request_id="lost")
            )
            record = bus.key("request:lost")
            await eventually(lambda: bus.command("EXISTS", record), within_s=5, why="it is emitted")
            await bus.command("DEL", record)
            with pytest.raises(DataLost):
                await waiting


@pytest.mark.invariant(12)
async def test_a_reader_of_a_named_stream_says_that_the_record_is_lost() -> None:
    """It has seen the record; a request that never had one times out as before."""
    with EmbeddedServer() as server:
        async with Bus(server.url) as bus:
            await bus.emit_command(
                STREAM,
                event_type="work:do",
                payload={},
                request_id="lost",
                correlation_id="c",
                reply_stream="work:replies",
            )
            reading = asyncio.create_task(bus.read_replies("work:replies", "c", "lost", 2.0))
            await eventually(
                lambda: bus.command("EXISTS", "work:replies"),
                within_s=5,
                why="the reader has its group",
            )
            await bus.command("DEL", bus.key("request:lost"))
            with pytest.raises(DataLost):
                await reading
            with pytest.raises(ReplyTimeout):
                await bus.read_replies("work:replies", "c", "never", 0.1)
