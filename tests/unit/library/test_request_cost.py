"""The number of commands that a request costs, as the server counts them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio as redis

from sagastream import Bus, Command, Progress, multi_stage_reply
from sagastream.saga import Compensation, Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer
from tests.listeners import listening

STREAM = "work:commands"
REQUESTS = 20

# Commands that all requests of a process share: periodic calls, blocking reads, new connections
# and the data loss guard, which looks for the record of a request that waits for long.
PERIODIC = {"renew", "announce", "sweep"}
SHARED = PERIODIC | {"XREAD", "XREADGROUP", "BLPOP", "HELLO", "CLIENT", "INFO"}
SHARED |= {"HSETNX", "HMGET", "EXISTS"}


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command, progress: Progress) -> dict[str, Any]:
    """Reply with the payload of the command, without progress."""
    return command.payload


@asynccontextmanager
async def _sent_to(server: EmbeddedServer) -> AsyncIterator[Counter[str]]:
    """Count the commands that clients send meanwhile; calls of functions by function name."""
    sent: Counter[str] = Counter()
    client = redis.Redis.from_url(server.url)
    async with client.monitor() as monitor:
        yield sent
        await client.echo("the end")
        while (line := await monitor.next_command())["command"] != "ECHO the end":
            name, *words = line["command"].split()
            if line["client_type"] != "lua":  # not a command that a function calls
                sent[words[0].rpartition("_")[2] if name == "FCALL" else name] += 1
    await client.aclose()


@pytest.fixture
def server(own_server: EmbeddedServer) -> EmbeddedServer:
    """The server of the bus: no other test may send commands to it."""
    return own_server


async def test_a_request_costs_three_commands(server: EmbeddedServer, bus: Bus) -> None:
    """A request without progress sends emit, begin and finish, and no other command."""
    async with listening(bus, [work]):
        await bus.request_and_reply(STREAM, "work:do", {"n": 0})
        async with _sent_to(server) as sent:
            for number in range(REQUESTS):
                await bus.request_and_reply(STREAM, "work:do", {"n": number})

    own = {name: count for name, count in sent.items() if name not in SHARED}
    assert own == dict.fromkeys(("emit", "begin", "finish"), REQUESTS)


@multi_stage_reply(stream=STREAM, event_type="work:undo")
async def undo(command: Command) -> dict[str, Any]:
    """Undo a step."""
    return {}


async def test_a_plain_saga_costs_two_moves_for_each_step(server: EmbeddedServer, bus: Bus) -> None:
    """Its start, then intent and end of each step, besides the requests; branches change nothing."""
    compensation = Compensation("work:undo", lambda _given, _results: {})
    steps = tuple(
        Step(f"s{number}", STREAM, "work:do", lambda _given, _results: {}, compensation)
        for number in range(3)
    )
    runner = SagaRunner(bus, Saga("trip", steps))
    async with listening(bus, [work, undo]):
        await runner.run(await runner.start({}))
        async with _sent_to(server) as sent:
            await runner.run(await runner.start({}))

    own = {name: count for name, count in sent.items() if name not in SHARED - {"HMGET"}}
    requests = dict.fromkeys(("emit", "begin", "finish"), 3)
    assert own == requests | {"journal": 1 + 2 * 3, "HMGET": 1, "TIME": 1}


async def test_the_counter_grows_by_what_is_new(bus: Bus) -> None:
    """Of several commands in one call; what is repeated counts once."""

    async def emit(request_id: str) -> None:
        await bus.emit_command(
            "work:commands", event_type="work:do", payload={}, request_id=request_id
        )

    await emit("a")
    await asyncio.gather(*(emit(request_id) for request_id in ("a", "b", "b", "c")))
    assert int(await bus.command("HGET", bus.key("sagastream:instance"), "emitted")) == 3
    for request_id in "abc":
        await bus.cancel(request_id)
