"""Health probes of `sagastream run`: `/healthz` and `/readyz` over HTTP, for a supervisor.

`/healthz` is 200 while the event loop runs, also when the server is away: a restart would not
repair the server. `/readyz` is 200 while the listener reads commands and the server answers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sagastream.bus import Bus
from sagastream.errors import SagastreamError
from sagastream.listener import CommandListener

_REQUEST_S = 5.0
_SERVER_S = 2.0
_MAX_REQUEST = 8192


class PortInUse(SagastreamError):
    """The port of the probes cannot be used."""


@asynccontextmanager
async def serve_probes(
    bus: Bus, host: str, port: int, listener: CommandListener | None
) -> AsyncIterator[None]:
    """Serve the probes for as long as the context lasts.

    Args:
        bus: The server.
        host: The address to listen on.
        port: The port; 0 to serve none.
        listener: It must read commands for this process to be ready; None if there is none.

    Raises:
        PortInUse: The port cannot be used.
    """
    if not port:
        yield
        return

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n")
                status, text = await _answer(head.split()[1:2], bus, listener)
                body = f"{text}\n".encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\nconnection: close\r\n"
                    f"content-length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client has gone, or does not speak HTTP
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(handle, host, port, limit=_MAX_REQUEST)
    except OSError as error:
        raise PortInUse(f"the probes cannot be served at {host}:{port}: {error}") from error
    async with server:
        yield


async def _answer(path: list[bytes], bus: Bus, listener: CommandListener | None) -> tuple[str, str]:
    if path == [b"/healthz"]:
        return "200 OK", "ok"
    if path != [b"/readyz"]:
        return "404 Not Found", "there is /healthz and /readyz"
    if listener and not listener.is_listening:
        return "503 Service Unavailable", "the listener does not read commands"
    try:
        await bus.command("PING", timeout=_SERVER_S)
    except SagastreamError as error:
        return "503 Service Unavailable", str(error)
    return "200 OK", "ok"
