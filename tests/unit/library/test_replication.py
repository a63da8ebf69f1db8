"""Answers that wait until replicas have confirmed what was written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from sagastream import (
    Bus,
    Command,
    CommandListener,
    Handler,
    NotReplicated,
    Progress,
    multi_stage_reply,
)
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer
from tests.failover import Pair
from tests.plain_client import connect
from tests.polling import eventually

pytestmark = pytest.mark.blocking  # servers start

STREAM = "work:commands"
WITHIN_S = 20.0  # a replica on a loaded machine takes its time
SHORT_S = 0.5  # for what no replica confirms
runs: list[str] = []


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command, _progress: Progress) -> None:
    """Count the run."""
    runs.append(command.request_id)


def _bus(pair: Pair, within_s: float = WITHIN_S) -> Bus:
    url = f"redis://127.0.0.1:{pair.first_port}"
    return Bus(url, durability="replicated", replicated_within_s=within_s)


@asynccontextmanager
async def _listening(
    pair: Pair, handler: Handler, within_s: float = WITHIN_S
) -> AsyncIterator[None]:
    """Run a listener with its own bus, like a process."""
    async with (
        _bus(pair, within_s) as own,
        CommandListener(own, [handler], lease_s=1.0, drain_s=5.0),
    ):
        yield


def _detach(server: EmbeddedServer) -> None:
    with connect(server.url) as client:
        client.replicaof("NO", "ONE")


def _attach(server: EmbeddedServer, port: int) -> None:
    with connect(server.url) as client:
        client.replicaof("127.0.0.1", port)


async def test_a_request_ends_when_a_replica_has_it(pair: Pair) -> None:
    """Its record is on the replica when the caller has the reply."""
    runs.clear()
    async with _bus(pair) as bus, _listening(pair, work):
        for number in range(5):
            await bus.request_and_reply(STREAM, "work:do", {}, 10, request_id=f"r{number}")
            with connect(pair.second.url) as replica:
                assert replica.exists(f"request:r{number}")
                assert replica.type(f"request:r{number}") in {b"string", "string"}
    assert runs == [f"r{number}" for number in range(5)]


async def test_what_no_replica_confirms_is_said(pair: Pair) -> None:
    """An emit raises, a handler does not begin; asking again is safe, and works later."""
    runs.clear()
    async with _bus(pair, SHORT_S) as bus, _listening(pair, work):
        await asyncio.to_thread(_detach, pair.second)
        for _ in range(2):
            with pytest.raises(NotReplicated, match="0 of 1 replicas have confirmed"):
                await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
        with pytest.raises(NotReplicated):
            await bus.cancel("another")
        assert runs == [], "its claim is not confirmed either"
        await asyncio.to_thread(_attach, pair.second, pair.first_port)
        async with _bus(pair) as patient:
            await patient.request_and_reply(STREAM, "work:do", {}, 30, request_id="r")
    assert runs == ["r"]


async def test_a_handler_that_ends_waits_for_its_replica(pair: Pair) -> None:
    """Its reply is held, and comes when a replica has it; the handler does not run again."""
    runs.clear()
    begun, go = asyncio.Event(), asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="work:slow")
    async def slow(command: Command, _progress: Progress) -> None:
        runs.append(command.request_id)
        begun.set()
        await go.wait()

    # So short that the listener asks for the confirmation again, and long enough to start.
    async with _listening(pair, slow, within_s=4 * SHORT_S), _bus(pair) as bus:
        reply = asyncio.create_task(
            bus.request_and_reply(STREAM, "work:slow", {}, 30, request_id="r")
        )
        await begun.wait()
        await asyncio.to_thread(_detach, pair.second)
        go.set()
        done, _ = await asyncio.wait({reply}, timeout=5 * SHORT_S)
        assert not done
        await asyncio.to_thread(_attach, pair.second, pair.first_port)
        assert (await reply)["status"] == "completed"
    assert runs == ["r"]


async def test_a_saga_and_its_requests_are_confirmed(pair: Pair) -> None:
    """Its journal too: a replica has it when the saga has ended."""
    saga = Saga("trip", (Step("only", STREAM, "work:do", lambda _given, _results: {}),))
    async with _bus(pair) as bus, _listening(pair, work):
        runner = SagaRunner(bus, saga)
        outcome = await runner.run(await runner.start({}, saga_id="s"))
    assert outcome.status == "completed"
    with connect(pair.second.url) as replica:
        assert replica.exists("saga:s")


async def test_a_lost_connection_confirms_nothing(pair: Pair) -> None:
    """The socket of confirmations is cut: calls are made again, and end."""
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(_bus(pair))
        await stack.enter_async_context(_listening(pair, work))
        for number in range(10):
            asked = asyncio.create_task(
                bus.request_and_reply(STREAM, "work:do", {}, 20, request_id=f"c{number}")
            )
            with connect(pair.first.url) as client:
                client.client_kill_filter(_type="normal", skipme=True)
            assert (await asked)["status"] == "completed"
        # No handler was lost by it.
        await eventually(lambda: runs.count("c9") == 1, within_s=5, why="it ran once")
