"""Sentinels that are asked for the primary: dead ones, and those that do not know."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import hiredis
import pytest

from sagastream import Bus, ServerUnavailable
from sagastream._redis.nodes import Servers
from sagastream._redis.sync import SyncConnection
from sagastream.testing import EmbeddedServer
from tests.failover import Pair

pytestmark = pytest.mark.blocking  # servers start


@contextlib.asynccontextmanager
async def _sentinel(port: int | None) -> AsyncIterator[int]:
    """A Sentinel that answers each command with the address of a primary; returns its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        text = str(port)
        known = f"*2\r\n$9\r\n127.0.0.1\r\n${len(text)}\r\n{text}\r\n" if port else "*-1\r\n"
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                commands.feed(data)
                while command := commands.gets():
                    if command[0] == b"SENTINEL":
                        writer.write(known.encode())
                    elif command[0] == b"HELLO":
                        writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                    else:
                        writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def _url(*ports: int) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"redis+sentinel://{hosts}/mine/3"


async def test_the_first_sentinel_that_knows_is_believed(pair: Pair) -> None:
    """One is dead, one does not know the service, and the third one does."""
    async with _sentinel(None) as ignorant, _sentinel(pair.first_port) as knowing:
        async with Bus(_url(1, ignorant, knowing)) as bus:
            await bus.command("SET", "here", "1")
            assert await bus.command("CLIENT", "INFO") is not None
        servers = Servers(_url(1, ignorant, knowing))
        with SyncConnection(servers, answer_timeout_s=3, connect_timeout_s=3) as connection:
            found = await asyncio.to_thread(connection.call, "GET", "here")
    assert found == b"1", "both are in the database of the URL"


async def test_what_no_sentinel_knows_is_said(server: EmbeddedServer) -> None:
    """With the reason of each of them."""
    assert server.is_running
    async with _sentinel(None) as ignorant:
        async with Bus(_url(1, ignorant), call_timeout_s=0.3) as bus:
            with pytest.raises(
                ServerUnavailable, match=r"1: .*refused|Errno.*does not know 'mine'"
            ):
                await bus.command("PING")
        servers = Servers(_url(1, ignorant))
        with (
            SyncConnection(servers, answer_timeout_s=1, connect_timeout_s=1) as connection,
            pytest.raises(ServerUnavailable, match="no Sentinel knows the primary"),
        ):
            await asyncio.to_thread(connection.call, "PING")


async def test_a_replica_is_no_primary(pair: Pair) -> None:
    """A Sentinel that does not know yet of a failover names one; it is not used."""
    async with (
        _sentinel(pair.second_port) as outdated,
        Bus(_url(outdated), call_timeout_s=0.3) as bus,
    ):
        with pytest.raises(ServerUnavailable, match="is a replica"):
            await bus.command("SET", "here", "1")
