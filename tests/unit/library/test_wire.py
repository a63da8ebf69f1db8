"""How a server is reached: over TLS, with a database and a password, and what refuses us."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
import trustme
import uvloop

from sagastream import Bus, Command, CommandListener, ServerUnavailable, multi_stage_reply
from sagastream._redis.protocol import ConnectionLost, RedisProtocol, connect, url_options
from sagastream.errors import ServerUnsuitable
from sagastream.testing import EmbeddedServer


@pytest.fixture
def own_server(server_binary: str | None) -> Iterator[EmbeddedServer]:
    """A server whose settings a test may change."""
    with EmbeddedServer(binary=server_binary) as server:
        yield server


@contextlib.asynccontextmanager
async def _in_front_of(url: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port that speaks TLS and passes on to a server that does not."""
    running: set[asyncio.Task[None]] = set()

    async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
        target.close()
        with contextlib.suppress(OSError):
            await target.wait_closed()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            there = await asyncio.open_unix_connection(parts.path)
        else:
            there = await asyncio.open_connection(parts.hostname, parts.port)
        for source, target in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(forward(source, target))
            running.add(task)
            task.add_done_callback(running.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        while running:
            await asyncio.wait(set(running))


async def test_tls_is_spoken_and_an_untrusted_certificate_refused(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    """With the authority's certificate it works; without, the refusal is told at once."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    async with _in_front_of(own_server.url, context) as port:
        url = f"rediss://127.0.0.1:{port}"
        async with Bus(f"{url}?ssl_ca_certs={tmp_path / 'authority.pem'}") as bus:
            await bus.ping()
            await bus.emit_command("a:commands", event_type="a:do", payload={"é": "\n" * 9999})
        began = time.monotonic()
        async with Bus(url, call_timeout_s=60) as bus:
            with pytest.raises(ServerUnsuitable, match="certificate"):
                await bus.ping()
        assert time.monotonic() - began < 30


async def test_a_password_and_a_database_are_those_of_the_url(own_server: EmbeddedServer) -> None:
    """A wrong password is told as what it is; keys are in the database of the URL."""
    async with Bus(own_server.url) as bus:
        await bus.command("CONFIG", "SET", "requirepass", "secret")
    parts = urlsplit(own_server.url)
    address = f"{parts.hostname}:{parts.port}" if parts.hostname else ""
    base = f"redis://:{{}}@{address}/3" if address else f"unix://:{{}}@{parts.path}?db=3"
    async with Bus(base.format("secret")) as bus:
        await bus.emit_command("a:commands", event_type="a:do", payload={})
        assert set(await bus.command("INFO", "keyspace")) == {"db3"}
    for wrong in (base.format("guess"), own_server.url):
        async with Bus(wrong) as bus:
            with pytest.raises(ServerUnsuitable, match="refuses this client"):
                await bus.ping()


async def test_answers_that_are_none_end_the_connection() -> None:
    """Whoever waits is told, and nothing that comes later is taken for an answer."""

    class Babble(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with Bus(f"redis://127.0.0.1:{port}", call_timeout_s=0.1) as bus:
            with pytest.raises(ServerUnavailable, match="no answer"):
                await bus.ping()
    finally:
        server.close()
        await server.wait_closed()


async def test_a_connection_for_a_caller_that_is_gone_is_kept(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled read leaves no socket behind: the next read gets its connection."""
    made: list[RedisProtocol] = []
    begun = asyncio.Event()

    async def slowly(settings: object) -> RedisProtocol:
        begun.set()
        await asyncio.sleep(0.05)
        made.append(await connect(url_options(bus.url)))
        return made[-1]

    monkeypatch.setattr("sagastream._redis.connection.connect", slowly)
    connection = bus.session().connection
    reading = asyncio.create_task(connection.block("TIME"))
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    while not made:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    assert await connection.block("TIME")
    assert len(made) == 1


async def test_a_connection_that_is_closed_at_once_is_a_lost_one(tmp_path: Path) -> None:
    """Whoever is accepted and thrown out again, as by a proxy without its server, does not wait."""
    path = str(tmp_path / "s")

    class Bouncer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    server = await asyncio.get_running_loop().create_unix_server(Bouncer, path)
    try:
        wire = await connect(url_options(f"unix://{path}"))
        await wire.closed
        with pytest.raises(ConnectionLost, match="closed"):
            await asyncio.wait_for(wire.call("PING"), 10)
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.blocking
async def test_what_nobody_waits_for_is_not_sent_again(own_server: EmbeddedServer) -> None:
    """The server is away, and whoever asked has gone: the connection gives up, and closes at once."""
    async with Bus(own_server.url) as bus:
        await bus.ping()
        connection = bus.session().connection
        await asyncio.to_thread(own_server.kill)

        async def finish() -> None:
            await bus.session().requests.finish(
                *("request:r", "work:commands", "completed", "{}"),
                group="g",
                entry_id="1-1",
                token="t",
                retention_ms=1000,
                trace=("", "", ""),
            )

        asking = asyncio.create_task(finish())
        async with asyncio.timeout(10):
            while not connection._retries:
                await asyncio.sleep(0.01)
            asking.cancel()
            while connection._retries:
                await asyncio.sleep(0.01)
    assert asking.cancelled()


@pytest.mark.blocking
async def test_closing_ends_what_is_sent_again(own_server: EmbeddedServer) -> None:
    """A bus that is closed while its server is away leaves no task and no socket behind."""
    async with Bus(own_server.url, call_timeout_s=60.0) as bus:
        await bus.ping()
        connection = bus.session().connection
        await asyncio.to_thread(own_server.kill)
        asking = asyncio.create_task(
            bus.emit_command("work:commands", event_type="work:do", payload={})
        )
        async with asyncio.timeout(10):
            while not connection._retries:
                await asyncio.sleep(0.01)
    with pytest.raises(ServerUnavailable, match="closed"):
        await asyncio.wait_for(asking, 5)
    assert not connection._retries


def test_another_loop_than_asyncios_will_do(own_server: EmbeddedServer) -> None:
    """Under uvloop, which web servers bring along, a request is answered and a listener stops."""

    @multi_stage_reply(stream="loop:commands", event_type="loop:say")
    async def say(command: Command, progress: object) -> dict[str, object]:
        return command.payload

    async def ask() -> dict[str, object]:
        async with Bus(own_server.url) as bus:
            listener = CommandListener(bus, handlers=[say])
            running = asyncio.create_task(listener.run())
            reply = await bus.request_and_reply("loop:commands", "loop:say", {"n": 1}, timeout=20.0)
            listener.stop()
            await running
            return reply

    assert uvloop.run(ask())["payload"] == {"n": 1}
