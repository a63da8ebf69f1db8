"""Many event streams of one mission at once, some of clients that read nothing."""

import asyncio
import contextlib
import json
import resource
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from app.config import choose_settings, get_settings
from app.missions.mission_saga import mission_runner
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer
from tests.fuzz.probes import memory_bytes
from tests.integration.served import Served

_FRAMES = 200
_FRAME_BYTES = 4000
_WITHIN_S = 120.0
_REQUEST = b"GET /api/missions/m/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class StreamResult:
    """What many event streams cost.

    Attributes:
        streams: How many were opened.
        stuck: How many of their clients read nothing.
        connections: Connections of the page to the server, at most.
        complete: How many clients got every event, in order, to the end.
        seconds: From the first frame until the last client had the end.
        page_s: The longest time that another page took meanwhile.
        page_before_mb: The memory of the page before the streams.
        page_mb: Its largest memory.
    """

    streams: int
    stuck: int
    connections: int = 0
    complete: int = 0
    seconds: float = 0.0
    page_s: float = 0.0
    page_before_mb: float = 0.0
    page_mb: float = 0.0

    def as_json(self) -> str:
        """All of it, for people and programs."""
        return json.dumps(asdict(self), indent=2)


def run(folder: Path, *, streams: int, stuck: int) -> StreamResult:
    """Open event streams of a mission while its frames are written.

    Args:
        folder: For results.
        streams: How many.
        stuck: How many of their clients read nothing.
    """
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    with EmbeddedServer() as server:
        settings = choose_settings(
            redis_url=server.url,
            map_dir=folder,
            out_dir=folder / "out",
            web_streams_per_client=streams,
        )
        with Served(settings.environment()) as served:
            return asyncio.run(_measure(served, StreamResult(streams, stuck)))


async def _measure(served: Served, result: StreamResult) -> StreamResult:
    async with get_bus() as bus:
        await bus.ping()
        mission = {"area": "none", "robot_count": 1, "mission": "m", "seed": 0}
        runner = mission_runner()
        await runner.start(mission, saga_id="m")  # no worker runs that would do its steps
        before = await _connections()
        result.page_before_mb = round(memory_bytes(served.pid) / 1e6, 1)
        clients = [
            asyncio.create_task(_watch(served.port, reads=number >= result.stuck))
            for number in range(result.streams)
        ]
        await asyncio.sleep(2)
        started, over = time.monotonic(), asyncio.Event()
        watching = asyncio.create_task(_observe(served, result, over, before))
        stream = bus.key(get_settings().recording_stream("m"))
        for number in range(_FRAMES):
            await bus.command("XADD", stream, "*", "n", number, "x", "x" * _FRAME_BYTES)
        await runner.compensate("m", "enough")
        done, pending = await asyncio.wait(clients[result.stuck :], timeout=_WITHIN_S)
        result.seconds = round(time.monotonic() - started, 1)
        expected = [str(number) for number in range(_FRAMES)]
        result.complete = sum(task.result() == expected for task in done)
        over.set()
        await watching
        left = [*pending, *clients[: result.stuck]]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
    return result


async def _connections() -> int:
    return int((await get_bus().command("INFO", "clients"))["connected_clients"])


async def _observe(served: Served, result: StreamResult, over: asyncio.Event, before: int) -> None:
    """Look at another page, and at what the streams cost."""
    async with httpx.AsyncClient(base_url=served.url, timeout=_WITHIN_S) as client:
        while not over.is_set():
            started = time.monotonic()
            answer = await client.get("/api/missions")
            answer.raise_for_status()
            result.page_s = max(result.page_s, round(time.monotonic() - started, 2))
            result.connections = max(result.connections, await _connections() - before)
            result.page_mb = max(result.page_mb, round(memory_bytes(served.pid) / 1e6, 1))
            await asyncio.sleep(0.2)


async def _watch(port: int, *, reads: bool) -> list[str]:
    """Open an event stream; return the numbers of the frames, in the order in which they came."""
    client = socket.socket()
    client.setblocking(False)
    if not reads:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=client)
    numbers: list[str] = []
    try:
        writer.write(_REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.Event().wait()
        while b"event: end" not in (line := await reader.readline()):
            if line.startswith(b"data: ") and b'"n"' in line:
                numbers.append(json.loads(line[6:])["n"])
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return numbers
