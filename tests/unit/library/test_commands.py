"""What a request costs the server, in commands, as the server counts them."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio as redis

from sagastream import Bus, Command, Progress, multi_stage_reply
from sagastream.testing import EmbeddedServer
from tests.conftest import listening

STREAM = "work:commands"
REQUESTS = 20

# What all requests of a process share: blocking reads, making a connection, and what comes by
# the clock.
BY_THE_CLOCK = {"renew", "announce", "sweep"}
SHARED = BY_THE_CLOCK | {"XREAD", "XREADGROUP", "BLPOP", "HELLO", "CLIENT", "INFO"}
SHARED |= {"HSETNX", "HMGET"}  # whether the data are still ours


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command, progress: Progress) -> dict[str, Any]:
    """Answer what was asked, without a stage of its own."""
    return command.payload


@asynccontextmanager
async def _sent_to(server: EmbeddedServer) -> AsyncIterator[Counter[str]]:
    """What clients send meanwhile, functions by name; what these call inside is not there."""
    seen: Counter[str] = Counter()
    client = redis.Redis.from_url(server.url)
    async with client.monitor() as monitor:
        yield seen
        await client.echo("the end")
        while (told := await monitor.next_command())["command"] != "ECHO the end":
            name, *words = told["command"].split()
            if told["client_type"] != "lua":
                seen[words[0].rpartition("_")[2] if name == "FCALL" else name] += 1
    await client.aclose()


async def _calls(bus: Bus) -> dict[str, int]:
    about = await bus.command("INFO", "commandstats")
    return {name.removeprefix("cmdstat_"): told["calls"] for name, told in about.items()}


@pytest.fixture
def server(server_binary: str | None) -> Iterator[EmbeddedServer]:
    """A server of its own, as everything sent to it counts."""
    with EmbeddedServer(binary=server_binary) as running:
        yield running


async def test_a_request_costs_three_commands(server: EmbeddedServer, bus: Bus) -> None:
    """Emit, begin and finish: a request without progress sends no more, beside blocking reads."""
    async with listening(bus, [work]):
        await bus.request_and_reply(STREAM, "work:do", {"n": 0})
        before = await _calls(bus)
        async with _sent_to(server) as sent:
            for number in range(REQUESTS):
                await bus.request_and_reply(STREAM, "work:do", {"n": number})
        after = await _calls(bus)

    own = {name: count for name, count in sent.items() if name not in SHARED}
    called = after["fcall"] - before["fcall"] - sum(sent[name] for name in BY_THE_CLOCK)
    assert called == sum(own.values()), f"beside functions: {own}"
    assert called <= 3 * REQUESTS, own
