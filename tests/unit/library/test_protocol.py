"""Connections to a server: TLS, password, database, refusals, and lost connections."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
import trustme
import uvloop

from sagastream import (
    Bus,
    Command,
    CommandListener,
    Retention,
    ServerUnavailable,
    multi_stage_reply,
)
from sagastream._redis.address import parse_url
from sagastream._redis.protocol import ConnectionLost, RedisProtocol, connect
from sagastream.errors import ServerUnsuitable
from sagastream.testing import EmbeddedServer, running
from tests.polling import eventually


@contextlib.asynccontextmanager
async def _tls_proxy(url: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Run a proxy that terminates TLS for a server without TLS; returns its port."""
    tasks: set[asyncio.Task[None]] = set()

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
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        while tasks:
            await asyncio.wait(set(tasks))


async def test_tls_works_and_an_untrusted_certificate_is_refused(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    """With the certificate of its authority it works; without, the error comes immediately."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    async with _tls_proxy(own_server.url, context) as port:
        url = f"rediss://127.0.0.1:{port}"
        async with Bus(f"{url}?ssl_ca_certs={tmp_path / 'authority.pem'}") as bus:
            await bus.ping()
            await bus.emit_command("a:commands", event_type="a:do", payload={"é": "\n" * 9999})
        began = time.monotonic()
        async with Bus(url, call_timeout_s=60) as bus:
            with pytest.raises(ServerUnsuitable, match="certificate"):
                await bus.ping()
        assert time.monotonic() - began < 30


async def test_password_and_database_come_from_the_url(own_server: EmbeddedServer) -> None:
    """A wrong password is named as the reason; keys are in the database of the URL."""
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


async def test_malformed_answers_close_the_connection() -> None:
    """The waiting call fails, and later bytes are not read as an answer."""

    class HttpServer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    loop = asyncio.get_running_loop()
    server = await loop.create_server(HttpServer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with Bus(f"redis://127.0.0.1:{port}", call_timeout_s=0.1) as bus:
            with pytest.raises(ServerUnavailable, match="no answer"):
                await bus.ping()
    finally:
        server.close()
        await server.wait_closed()


async def test_a_connection_for_a_cancelled_caller_is_kept(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled read leaks no socket: the next read gets its connection."""
    made: list[RedisProtocol] = []
    begun = asyncio.Event()

    async def connect_slowly(settings: object) -> RedisProtocol:
        begun.set()
        await asyncio.sleep(0.05)  # the caller is cancelled in this time
        made.append(await connect(parse_url(bus.url).options()))
        return made[-1]

    monkeypatch.setattr("sagastream._redis.nodes.connect", connect_slowly)
    connection = bus.session().connection
    reading = asyncio.create_task(connection.block("TIME"))
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await eventually(lambda: made, within_s=10, why="the connection is open")
    await asyncio.sleep(0)  # the callbacks of the finished task run in the next turn of the loop
    assert await connection.block("TIME")
    assert len(made) == 1


async def test_a_connection_that_is_closed_after_accept_is_lost(tmp_path: Path) -> None:
    """A call does not wait for its timeout, as with a proxy whose server is down."""
    path = str(tmp_path / "s")

    class ClosingServer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    server = await asyncio.get_running_loop().create_unix_server(ClosingServer, path)
    try:
        protocol = await connect(parse_url(f"unix://{path}").options())
        await protocol.closed
        with pytest.raises(ConnectionLost, match="closed"):
            await asyncio.wait_for(protocol.call("PING"), 10)
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.blocking
async def test_a_call_whose_caller_was_cancelled_is_not_retried(
    own_server: EmbeddedServer,
) -> None:
    """While the server is down a cancelled call ends its retries, and the bus closes at once."""
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
                retention=Retention(),
                trace=("", "", ""),
            )

        finishing = asyncio.create_task(finish())
        await eventually(lambda: connection._retries, within_s=10, why="the call is retried")
        finishing.cancel()
        await eventually(lambda: not connection._retries, within_s=10, why="the retries end")
    assert finishing.cancelled()


@pytest.mark.blocking
async def test_closing_a_bus_ends_its_retries(own_server: EmbeddedServer) -> None:
    """A bus that is closed while its server is down leaks no task and no socket."""
    async with Bus(own_server.url, call_timeout_s=60.0) as bus:
        await bus.ping()
        connection = bus.session().connection
        await asyncio.to_thread(own_server.kill)
        emitting = asyncio.create_task(
            bus.emit_command("work:commands", event_type="work:do", payload={})
        )
        await eventually(lambda: connection._retries, within_s=10, why="the call is retried")
    with pytest.raises(ServerUnavailable, match="closed"):
        await asyncio.wait_for(emitting, 5)
    assert not connection._retries


def test_the_library_runs_on_uvloop(own_server: EmbeddedServer) -> None:
    """On uvloop, which web servers use, a request is answered and a listener stops."""

    @multi_stage_reply(stream="loop:commands", event_type="loop:say")
    async def say(command: Command, progress: object) -> dict[str, object]:
        return command.payload

    async def request() -> dict[str, object]:
        async with Bus(own_server.url) as bus, running(CommandListener(bus, [say])):
            return await bus.request_and_reply("loop:commands", "loop:say", {"n": 1}, timeout=20.0)

    assert uvloop.run(request())["payload"] == {"n": 1}
