import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import redis

from sagastream import Bus, Command, CommandListener, Progress, ServerUnavailable, multi_stage_reply
from sagastream.testing import EmbeddedServer, FaultProxy, running

pytestmark = pytest.mark.blocking


def _client(server: EmbeddedServer) -> "redis.Redis":
    return redis.Redis.from_url(server.url)


def test_it_answers_and_is_gone_afterwards() -> None:
    """A server for as long as the context, and nothing left behind."""
    with EmbeddedServer() as server:
        with _client(server) as client:
            assert client.ping()
        pid, place = server.pid, Path(server.url.removeprefix("unix://")).parent
    assert not place.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(("aof", "kept"), [(True, b"1"), (False, None)])
def test_what_a_restart_keeps(aof: bool, kept: bytes | None) -> None:
    """With an append-only file the data are there again, without it the server is empty."""
    with EmbeddedServer(aof=aof) as server:
        with _client(server) as client:
            client.set("a", 1)
        server.restart()
        with _client(server) as client:
            assert client.get("a") == kept


def test_data_survive_a_kill_with_an_append_only_file() -> None:
    """SIGKILL is what a bad day does."""
    with EmbeddedServer(aof=True) as server:
        with _client(server) as client:
            client.set("a", 1)
        server.kill()
        server.start()
        with _client(server) as client:
            assert client.get("a") == b"1"


def test_a_binary_that_is_no_server_says_so() -> None:
    """The last words of what was started are in the error."""
    with pytest.raises(RuntimeError, match="/bin/false did not start"):
        EmbeddedServer(binary="/bin/false").start()


def test_it_dies_with_the_process_that_started_it() -> None:
    """A test run that is killed leaves no server behind."""
    program = (
        "import sys\nfrom sagastream.testing import EmbeddedServer\n"
        "with EmbeddedServer() as server:\n    print(server.pid, flush=True)\n    sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    descriptor = os.pidfd_open(pid)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    os.set_blocking(descriptor, False)
    import select  # noqa: PLC0415 - only here

    ready, _, _ = select.select([descriptor], [], [], 10)
    os.close(descriptor)
    assert ready == [descriptor]


async def test_a_bus_says_who_did_not_answer_and_not_the_password() -> None:
    """The address is in the error, the secret is not."""
    bus = Bus("redis://user:secret@127.0.0.1:1/0", call_timeout_s=0.2)
    with pytest.raises(ServerUnavailable, match=r"redis://127\.0\.0\.1:1/0") as caught:
        await bus.ping()
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(bus)
    await bus.close()


@pytest.mark.invariant(12)
async def test_calls_wait_for_a_server_that_comes_back(server_binary: str | None) -> None:
    """A restart in the middle is a delay, not an error."""
    with EmbeddedServer(aof=True, binary=server_binary) as server:
        async with Bus(server.url) as bus:
            first = await bus.emit_command(
                "s:commands", event_type="s:do", payload={}, request_id="r"
            )
            server.restart()
            again = await bus.emit_command(
                "s:commands", event_type="s:do", payload={}, request_id="r"
            )
    assert first == again


def test_a_proxy_leaves_no_socket_behind(server: EmbeddedServer) -> None:
    """Also of clients that connect in the moment in which it ends."""
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(30):
            callers = [socket.socket(socket.AF_UNIX) for _ in range(20)]
            with FaultProxy(server.url) as proxy:
                for caller in callers:
                    caller.connect(proxy.url.removeprefix("unix://"))
            for caller in callers:
                caller.close()
        gc.collect()
    assert [str(warning.message) for warning in left] == []


@multi_stage_reply(stream="echo:commands", event_type="echo:say")
async def say(command: Command, progress: Progress) -> dict[str, object]:
    """Answer with what was said."""
    return command.payload


async def test_a_listener_runs_for_as_long_as_the_context(bus: Bus) -> None:
    """It answers inside, and has stopped behind it: a command waits for the next one."""
    async with running(CommandListener(bus, [say])) as listener:
        await bus.request_and_reply("echo:commands", "echo:say", {}, timeout=10)
    await bus.emit_command("echo:commands", event_type="echo:say", payload={}, request_id="r")
    assert await bus.outcome("r") is None
    assert not await bus.command("EXISTS", bus.key("listeners:echo:commands"))
    listener.stop()
    async with running(CommandListener(bus, [say])):
        await bus.request_and_reply("echo:commands", "echo:say", {}, request_id="r", timeout=10)


@pytest.mark.parametrize("error", [None, LookupError("the body's own")])
async def test_what_runs_is_finished_when_the_context_ends(
    bus: Bus, error: LookupError | None
) -> None:
    """The end of the body, a bad one too, stops the listener, not the handler; its error is raised."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    @multi_stage_reply(stream="echo:commands", event_type="echo:say")
    async def late(command: Command, progress: Progress) -> None:
        begun.set()
        await may_end.wait()

    async def body() -> None:
        async with running(CommandListener(bus, [late])):
            await bus.emit_command(
                "echo:commands", event_type="echo:say", payload={}, request_id="r"
            )
            await begun.wait()
            asyncio.get_running_loop().call_later(0.05, may_end.set)
            if error:
                raise error

    with pytest.raises(LookupError, match="own") if error else contextlib.nullcontext():
        await body()
    reply = await bus.outcome("r")
    assert reply is not None
    assert reply["status"] == "completed"


async def test_the_error_of_a_listener_ends_the_body() -> None:
    """A test whose listener cannot work is not left waiting for a reply."""
    bus = Bus("redis://127.0.0.1:1/0", call_timeout_s=0.2)
    with pytest.raises(ServerUnavailable):
        async with running(CommandListener(bus, [say])):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await bus.close()
