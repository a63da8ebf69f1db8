"""A listener in a web application: the programs of the how-tos, under a real uvicorn."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from app.config import ROOT
from sagastream import Bus, Command, Progress, multi_stage_reply
from sagastream.status import stream_status
from sagastream.testing import EmbeddedServer, child_options
from tests.docs_blocks import blocks_of
from tests.integration.conftest import environment
from tests.listeners import listening
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(120)]

STREAM, EVENT_TYPE = "press:commands", "press:print"
# A book that takes a minute.
LONG = {"pages": 600}


@multi_stage_reply(stream=STREAM, event_type=EVENT_TYPE)
async def print_at_once(command: Command, _progress: Progress) -> dict[str, Any]:
    """The handler of another listener: it has the whole book at once."""
    return {"pages": command.payload["pages"], "at_once": True}


@multi_stage_reply(stream=STREAM, event_type=EVENT_TYPE)
async def print_slowly(_command: Command, progress: Progress) -> None:
    """The handler of a listener that works until the request is cancelled."""
    await progress(0.0)
    await asyncio.Event().wait()


def write_programs(page: str, folder: Path) -> None:
    """Write the files of a page of the guide."""
    for block in blocks_of((ROOT / page).read_text(), page):
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)


class Program:
    """A program of a page that runs.

    Args:
        arguments: Its arguments.
        folder: The folder of the page's files.
        url: The server.
    """

    def __init__(self, *arguments: str, folder: Path, url: str) -> None:
        self._log = folder / "program.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=environment(REDIS_URL=url, PYTHONPATH=f"{ROOT / 'src'}:{folder}"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **child_options(),
            )
        self._signalled = 0.0

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; the time to the end counts from the last one."""
        self._signalled = time.monotonic()
        self._process.send_signal(number)

    async def end(self) -> tuple[int, float]:
        """Wait for its end; return its exit code and the seconds since the last signal."""
        code = await asyncio.to_thread(self._process.wait, 60)
        return code, time.monotonic() - self._signalled

    def kill(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running(*arguments: str, folder: Path, url: str) -> Iterator[Program]:
    """Run a program of a page until the end of the context."""
    program = Program(*arguments, folder=folder, url=url)
    try:
        yield program
    finally:
        program.kill()


@asynccontextmanager
async def serving(application: str, folder: Path, url: str) -> AsyncIterator[tuple[Program, Any]]:
    """Serve an application with uvicorn; yields the program and an HTTP client for it."""
    socket = str(folder / "web.sock")
    arguments = ["-m", "uvicorn", application, "--uds", socket, "--timeout-graceful-shutdown", "2"]
    with running(*arguments, folder=folder, url=url) as program:
        await eventually(
            lambda: "Uvicorn running" in program.log, within_s=30, why="uvicorn serves"
        )
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://web", timeout=30
        ) as client:
            yield program, client


async def begun(bus: Bus, request_id: str) -> None:
    """Wait until the handler of a request has printed a page."""
    async for stage in bus.follow(request_id):
        if stage["status"] == "progress":
            return


async def outcomes(
    bus: Bus, request_ids: list[str], *, within_s: float = 5.0
) -> list[dict[str, Any]]:
    """Wait for requests that another listener completes; return the payloads of their replies.

    Args:
        bus: The server.
        request_ids: The requests.
        within_s: By default half of a lease: what was given back is completed at once.
    """
    replies = await asyncio.gather(
        *(
            bus.request_and_reply(STREAM, EVENT_TYPE, LONG, timeout=within_s, request_id=request_id)
            for request_id in request_ids
        )
    )
    return [reply["payload"] for reply in replies]


class Emitter:
    """Emits one command after the other, until it is stopped."""

    def __init__(self, bus: Bus) -> None:
        self.emitted: list[str] = []
        self._bus = bus

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._emit())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _emit(self) -> None:
        while True:
            request_id = f"late-{len(self.emitted)}"
            await self._bus.emit_command(
                STREAM, event_type=EVENT_TYPE, payload=LONG, request_id=request_id
            )
            self.emitted.append(request_id)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)]
)
async def test_an_application_with_a_listener_stops(
    own_server: EmbeddedServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """It ends by itself in time, finishes what it can, and gives the rest to another listener."""
    write_programs("docs/howto/fastapi.md", tmp_path)
    async with Bus(own_server.url) as bus, serving("web:app", tmp_path, own_server.url) as served:
        program, client = served
        for name, pages in (("long", 600), ("drained", 20)):
            await bus.emit_command(
                STREAM, event_type=EVENT_TYPE, payload={"pages": pages}, request_id=name
            )
            await begun(bus, name)
        answer = asyncio.create_task(client.put("/books/answered", params={"pages": 5}))
        await begun(bus, "answered")
        async with Emitter(bus) as emitter:
            program.send(number)
            ended_with, took_s = await program.end()
        assert ended_with == code, program.log
        assert took_s < 5
        assert (await answer).json() == {"pages": 5}
        drained = await bus.outcome("drained")
        assert drained is not None
        assert drained["payload"] == {"pages": 20}
        with pytest.raises(httpx.ConnectError):
            await client.put("/books/late", params=LONG)
        async with listening(bus, [print_at_once]):
            found = await outcomes(bus, ["long", *emitter.emitted])
        assert found == [LONG | {"at_once": True}] * (1 + len(emitter.emitted))
        assert len(emitter.emitted) > 10


async def test_a_second_ctrl_c_ends_an_application_at_once(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    """The lifespan is skipped; the commands are given back all the same."""
    write_programs("docs/howto/fastapi.md", tmp_path)
    async with Bus(own_server.url) as bus, serving("web:app", tmp_path, own_server.url) as served:
        program, client = served
        long = asyncio.create_task(client.put("/books/long", params=LONG))
        await begun(bus, "long")
        program.send(signal.SIGINT)
        await eventually(
            lambda: "Waiting for connections to close" in program.log, within_s=2, why="it waits"
        )
        program.send(signal.SIGINT)
        ended_with, took_s = await program.end()
        assert (ended_with, took_s < 2) == (0, True), program.log
        with contextlib.suppress(httpx.HTTPError):
            await long
        async with listening(bus, [print_at_once]):
            assert await outcomes(bus, ["long"]) == [LONG | {"at_once": True}]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_listener_in_its_own_process_stops(
    own_server: EmbeddedServer, tmp_path: Path, number: signal.Signals
) -> None:
    """It drains at the first signal, and gives its commands back at the second."""
    write_programs("docs/howto/fastapi.md", tmp_path)
    async with Bus(own_server.url) as bus:
        with running("listen.py", folder=tmp_path, url=own_server.url) as program:
            await bus.emit_command(STREAM, event_type=EVENT_TYPE, payload=LONG, request_id="long")
            await begun(bus, "long")
            program.send(number)
            await eventually(lambda: _is_unread(bus), within_s=10, why="it reads no more commands")
            program.send(number)
            ended_with, took_s = await program.end()
        assert (ended_with, took_s < 8) == (0, True), program.log
        async with listening(bus, [print_at_once]):
            assert await outcomes(bus, ["long"]) == [LONG | {"at_once": True}]


async def _is_unread(bus: Bus) -> bool:
    return not (await stream_status(bus, STREAM)).event_types


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)]
)
async def test_a_django_application_stops_while_views_wait(
    own_server: EmbeddedServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """A plain view ends its wait within its timeout; an async one is cancelled; both requests go on."""
    write_programs("docs/howto/django.md", tmp_path)
    application = serving("shop.asgi:application", tmp_path, own_server.url)
    async with (
        Bus(own_server.url) as bus,
        application as (program, client),
        listening(bus, [print_slowly]),
    ):
        waiting = [
            asyncio.create_task(client.put("/books/long", params=LONG)),
            asyncio.create_task(client.get("/books/long/stages")),
        ]
        await begun(bus, "long")
        program.send(number)
        ended_with, took_s = await program.end()
        assert ended_with == code, program.log
        assert took_s < 5
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await bus.cancel("long") == "cancelling"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_management_command_stops(
    own_server: EmbeddedServer, tmp_path: Path, number: signal.Signals
) -> None:
    """What ends within `drain_s` is finished; another listener completes the rest.

    The thread that prints the long book ends with the process, so its command has a lease.
    """
    write_programs("docs/howto/django.md", tmp_path)
    async with Bus(own_server.url) as bus:
        with running("manage.py", "run_listener", folder=tmp_path, url=own_server.url) as program:
            for name, pages in (("long", 600), ("short", 10)):
                await bus.emit_command(
                    STREAM, event_type=EVENT_TYPE, payload={"pages": pages}, request_id=name
                )
                await begun(bus, name)
            async with Emitter(bus) as emitter:
                program.send(number)
                ended_with, took_s = await program.end()
        assert (ended_with, took_s < 5) == (0, True), program.log
        short = await bus.outcome("short")
        assert short is not None
        assert short["payload"] == {"pages": 10}
        async with listening(bus, [print_at_once], lease_s=1):
            found = await outcomes(bus, ["long", *emitter.emitted], within_s=20)
        assert found == [LONG | {"at_once": True}] * (1 + len(emitter.emitted))
        assert len(emitter.emitted) > 10
