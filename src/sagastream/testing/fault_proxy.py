"""`FaultProxy`: a proxy in front of a server that injects faults by a plan.

It parses the commands that a process sends, and calls the plan for each. It runs in a thread
with its own event loop, so that a blocked test cannot block it.
"""

import asyncio
import contextlib
import enum
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hiredis


class Fault(enum.Enum):
    """What happens to one command.

    Attributes:
        NONE: It is forwarded and answered.
        BEFORE: The connection breaks before the server sees it.
        AFTER: The server executes it, but the connection breaks before the answer.
        SWALLOW: The server executes it, but no answer ever comes.
        HALF_OPEN: It is not forwarded, and no answer ever comes.
        STALL: It and all later commands on its connection are delayed by `stall_s`.
    """

    NONE = enum.auto()
    BEFORE = enum.auto()
    AFTER = enum.auto()
    SWALLOW = enum.auto()
    HALF_OPEN = enum.auto()
    STALL = enum.auto()


# A command as its words.
Words = tuple[bytes, ...]
Plan = Callable[[int, Words], Fault]


class FaultProxy:
    """A proxy on a unix socket, in front of a server on a unix socket.

        with EmbeddedServer() as server, FaultProxy(server.url, plan) as proxy:
            async with Bus(proxy.url) as bus: ...

    Args:
        upstream: The server's `unix://` URL.
        plan: Called with the number of a command (from 1, over all connections) and its
            words; returns what happens to it.
        on_fault: Called in the proxy's thread when a fault takes place, before the
            connection breaks: the moment to kill the process behind it.
        delay_s: The delay of each command, in seconds.
        stall_s: The delay of a command with `STALL`, in seconds.

    Attributes:
        commands: Every command that arrived, in order.
    """

    def __init__(
        self,
        upstream: str,
        plan: Plan = lambda _number, _command: Fault.NONE,
        *,
        on_fault: Callable[[], None] = lambda: None,
        delay_s: float = 0.0,
        stall_s: float = 1.0,
    ) -> None:
        self.commands: list[Words] = []
        self._upstream = upstream.removeprefix("unix://")
        self._plan = plan
        self._on_fault = on_fault
        self._delay_s = delay_s
        self._stall_s = stall_s
        self._directory = Path(tempfile.mkdtemp(prefix="sagastream-proxy-"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fault-proxy", daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        # An event loop has only weak references to tasks: a waiting one could be collected.
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The address to connect to in place of the server's."""
        return f"unix://{self._directory / 'proxy.sock'}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _serve(self) -> None:
        async def serve() -> None:
            path = self.url.removeprefix("unix://")
            server = await asyncio.start_unix_server(self._accept, path)
            self._ready.set()
            await self._stop.wait()
            # A connection that was accepted just now has no transport yet, and gets one only while
            # the server is open: accept no more, and give it one turn of the loop for that.
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)
            server.close()
            while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.sleep(0)  # one turn of the loop, in which the sockets are closed

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(serve())

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Remember the writer here: a task that is cancelled before it begins would not close it.
        self._writers.add(writer)
        if self._stop.is_set():
            return
        task = self._loop.create_task(self._connected(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            self._close(writer)
            return
        pipe = _Pipe(writer, up_reader)
        answering = asyncio.create_task(pipe.answer())
        try:
            await self._forward(reader, up_writer, pipe)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            answering.cancel()
            self._close(writer)
            up_writer.close()

    def _close(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter, pipe: "_Pipe"
    ) -> None:
        parser = hiredis.Reader()
        sent = 0
        while data := await reader.read(65536):
            parser.feed(data)
            while (parts := parser.gets()) is not False:
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                command: Words = tuple(parts)
                self.commands.append(command)
                fault = self._plan(len(self.commands), command)
                if fault in {Fault.BEFORE, Fault.HALF_OPEN}:
                    self._on_fault()
                if fault is Fault.BEFORE:
                    return
                if fault is Fault.HALF_OPEN:
                    await self._stop.wait()
                if fault is Fault.STALL:
                    await asyncio.sleep(self._stall_s)
                sent += 1
                if fault in {Fault.AFTER, Fault.SWALLOW}:
                    pipe.hold_back(sent)
                up_writer.write(hiredis.pack_command(command))  # type: ignore[arg-type]
                await up_writer.drain()
                if fault in {Fault.AFTER, Fault.SWALLOW}:
                    await pipe.held.wait()
                    self._on_fault()
                if fault is Fault.AFTER:
                    return
                if fault is Fault.SWALLOW:
                    await self._stop.wait()


class _Pipe:
    """Forwards answers to the client, up to one that is held back."""

    def __init__(self, writer: asyncio.StreamWriter, upstream: asyncio.StreamReader) -> None:
        self.held = asyncio.Event()
        self._writer = writer
        self._upstream = upstream
        self._hold: int | None = None
        self._answered = 0

    def hold_back(self, number: int) -> None:
        """Forward answers up to the one before this."""
        self._hold = number

    async def answer(self) -> None:
        """Forward answers until the connection ends or one is held back."""
        parser: Any = hiredis.Reader()
        # A server that is killed resets the connection if it had not read everything.
        with contextlib.suppress(ConnectionError):
            while data := await self._upstream.read(65536):
                parser.feed(data)
                while parser.gets() is not False:
                    self._answered += 1
                if self._hold is not None and self._answered >= self._hold:
                    self.held.set()
                    return
                self._writer.write(data)
                await self._writer.drain()
        self._writer.close()
        self.held.set()
