"""Clients that do not send a whole request, against a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from sagastream.web import impatient
from sagastream.web.impatient import ImpatientProtocol

_CLOSED_S = 5.0


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, wait for longer than a request may take to arrive, and return its length."""
    assert scope["type"] == "http"
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await asyncio.sleep(2 * impatient.REQUEST_S)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def _connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(
        _answer, port=0, http=ImpatientProtocol, log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    server.config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await server.shutdown()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may take a moment to arrive."""
    monkeypatch.setattr(impatient, "REQUEST_S", 0.2)


_WHOLE = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize("half", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", _WHOLE[:-1]])
@pytest.mark.parametrize("before", [0, 1])
async def test_half_a_request_is_not_waited_for(half: bytes, before: int) -> None:
    """Nothing, a part of the headers, or of the body; also after a whole request."""
    async with _connected() as (reader, writer):
        for _ in range(before):
            writer.write(_WHOLE)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _CLOSED_S)
            assert b" 200 " in head
            assert await reader.readexactly(1) == b"3"
        if before and not half:
            return  # an idle connection is kept for its next request, for some seconds
        writer.write(half)
        assert await asyncio.wait_for(reader.read(), _CLOSED_S) == b""


async def test_a_slow_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is on the request, not on its answer; a body may come in parts."""
    monkeypatch.setattr(
        impatient, "REQUEST_S", 1.0
    )  # the parts arrive in time on a slow machine, too
    async with _connected() as (reader, writer):
        for at in range(0, len(_WHOLE), 20):
            writer.write(_WHOLE[at : at + 20])
            await writer.drain()
            await asyncio.sleep(0.01)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _CLOSED_S)
        assert b" 200 " in head
        assert await reader.readexactly(1) == b"3"
