"""Limits: requests in flight, and servers that the library refuses."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sagastream import Bus, Command, Overloaded, Progress, ServerUnsuitable, multi_stage_reply
from sagastream.status import request_status
from sagastream.testing import EmbeddedServer, bundled_binary
from tests.listeners import listening
from tests.plain_client import connect
from tests.polling import eventually

STREAM = "work:commands"


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(_command: Command, _progress: Progress) -> None:
    """Do nothing."""


async def _take_slot(bus: Bus) -> "asyncio.Task[dict[str, Any]]":
    """Send a request that takes the only slot until a listener runs."""
    reply = bus.request_and_reply(STREAM, "work:do", {}, 20, request_id="first")
    task = asyncio.create_task(reply)
    await eventually(
        lambda: request_status(bus, "first"), within_s=10, why="the first request is sent"
    )
    return task


async def test_a_request_beyond_the_limit_waits_for_a_slot(bus: Bus) -> None:
    """With `when_full="wait"` it is sent when the first request has ended."""
    async with Bus(bus.url, namespace=bus.namespace, max_in_flight=1, when_full="wait") as small:
        first = await _take_slot(small)
        second = asyncio.create_task(
            small.request_and_reply(STREAM, "work:do", {}, 20, request_id="second")
        )
        async with listening(bus, [work]):
            await first
            await second
    assert await request_status(bus, "second") is not None


async def test_a_request_beyond_the_limit_is_refused(bus: Bus) -> None:
    """With `when_full="raise"` it raises Overloaded, and nothing is sent."""
    async with Bus(bus.url, namespace=bus.namespace, max_in_flight=1, when_full="raise") as small:
        first = await _take_slot(small)
        with pytest.raises(Overloaded, match="1 requests of this process"):
            await small.request_and_reply(STREAM, "work:do", {}, 20, request_id="second")
        async with listening(bus, [work]):
            await first
    assert await request_status(bus, "second") is None


async def test_waiting_for_a_slot_ends_with_the_timeout(bus: Bus) -> None:
    """A request that gets no slot in time raises Overloaded."""
    async with Bus(bus.url, namespace=bus.namespace, max_in_flight=1) as small:
        first = await _take_slot(small)
        with pytest.raises(Overloaded):
            await small.request_and_reply(STREAM, "work:do", {}, 0.1)
        first.cancel()
        await asyncio.wait([first])


@pytest.mark.blocking
@pytest.mark.invariant(7)
async def test_a_server_that_may_evict_keys_is_refused(own_server: EmbeddedServer) -> None:
    """The error names the command that configures the server; after it the server is accepted."""
    async with Bus(own_server.url) as bus:
        await bus.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(ServerUnsuitable, match="CONFIG SET maxmemory-policy noeviction"):
            await bus.ping()
        await bus.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await bus.ping()


@pytest.mark.blocking
async def test_a_cluster_is_refused_without_a_namespace(
    server_binary: str | None, tmp_path: Path
) -> None:
    """Only in a namespace are the keys of a request in one cluster slot."""
    program = tmp_path / "server"
    program.write_text(
        f'#!/bin/sh\nexec {server_binary or bundled_binary()} "$@" --cluster-enabled yes\n'
    )
    program.chmod(0o755)
    with EmbeddedServer(binary=str(program)) as server:
        async with Bus(server.url) as bus:
            with pytest.raises(ServerUnsuitable, match="give a namespace"):
                await bus.ping()
        with connect(server.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await eventually(
                lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")),
                within_s=20,
                why="the node serves all slots",
            )
        async with Bus(server.url, namespace="mine") as bus:
            await bus.ping()
