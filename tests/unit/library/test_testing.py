"""`sagastream.testing`: the embedded server, the fault proxy, and `running`."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import pytest

from sagastream import Bus, Command, CommandListener, Progress, ServerUnavailable, multi_stage_reply
from sagastream.status import stream_status
from sagastream.testing import (
    EmbeddedServer,
    FaultProxy,
    child_options,
    die_with_parent,
    running,
)
from tests.plain_client import connect

pytestmark = pytest.mark.blocking


def test_a_server_runs_until_the_end_of_its_context() -> None:
    """Inside it answers; afterwards neither its process nor its folder exists."""
    with EmbeddedServer() as server:
        with connect(server.url) as client:
            assert client.ping()
        pid, folder = server.pid, Path(server.url.removeprefix("unix://")).parent
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(("aof", "kept"), [(True, "1"), (False, None)])
def test_a_restart_keeps_data_with_an_append_only_file(aof: bool, kept: str | None) -> None:
    """Without an append-only file the server is empty after a restart."""
    with EmbeddedServer(aof=aof) as server:
        with connect(server.url) as client:
            client.set("a", 1)
        server.restart()
        with connect(server.url) as client:
            assert client.get("a") == kept


def test_data_survive_a_kill_with_an_append_only_file() -> None:
    """A write that was confirmed before SIGKILL exists after the next start."""
    with EmbeddedServer(aof=True, fsync="always") as server:
        with connect(server.url) as client:
            client.set("a", 1)
        server.kill()
        server.start()
        with connect(server.url) as client:
            assert client.get("a") == "1"


def test_a_binary_that_is_not_a_server_is_named() -> None:
    """The error names the program that did not start."""
    with pytest.raises(RuntimeError, match="/bin/false did not start"):
        EmbeddedServer(binary="/bin/false").start()


def test_a_server_ends_with_the_process_that_started_it() -> None:
    """A test run that is killed leaves no server process."""
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


def test_an_interrupt_of_the_process_group_does_not_reach_the_server() -> None:
    """After a Ctrl-C in the terminal, which every process of its group gets, the server answers."""
    program = (
        "import os, signal, time, redis\nfrom sagastream.testing import EmbeddedServer\n"
        "with EmbeddedServer() as server:\n"
        "    try:\n        os.killpg(0, signal.SIGINT)\n        while True:\n            time.sleep(0.01)\n"
        "    except KeyboardInterrupt:\n"
        "        print(redis.Redis.from_url(server.url).ping())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr


_NAMESPACE = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc"]


def _makes_namespaces() -> bool:
    try:
        return subprocess.run([*_NAMESPACE, "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _makes_namespaces(), reason="needs the right to make a PID namespace")
def test_the_first_process_of_a_container_starts_a_server() -> None:
    """A child whose parent has the process id 1 does not take it for an orphan's parent."""
    program = (
        "import os\nfrom sagastream.testing import EmbeddedServer\n"
        "with EmbeddedServer():\n    print(os.getpid())"
    )
    done = subprocess.run(
        [*_NAMESPACE, sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "1\n", done.stderr


def test_a_child_whose_parent_has_died_before_it_asked_ends() -> None:
    """A child that is started by a process other than its parent is killed at once."""
    options = child_options() | {"preexec_fn": partial(die_with_parent, os.getppid())}
    assert subprocess.run(["true"], check=False, **options).returncode == -signal.SIGKILL


def test_a_server_that_does_not_start_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a server is deleted if its context is not entered."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match="did not start"), EmbeddedServer(binary="/bin/false"):
        pass
    assert list(tmp_path.iterdir()) == []


async def test_an_unavailable_server_is_named_without_its_password() -> None:
    """The error and the repr of the bus have the address, and not the password."""
    bus = Bus("redis://user:secret@127.0.0.1:1/0", call_timeout_s=0.2)
    with pytest.raises(ServerUnavailable, match=r"redis://127\.0\.0\.1:1/0") as caught:
        await bus.ping()
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(bus)
    await bus.close()


@pytest.mark.invariant(12)
async def test_calls_wait_for_a_server_that_comes_back(server_binary: str | None) -> None:
    """A call after a restart of the server succeeds, and is idempotent."""
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


def test_a_proxy_closes_all_sockets(server: EmbeddedServer) -> None:
    """Sockets of clients that connect while the proxy ends are closed too."""
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
    """Reply with the payload of the command."""
    return command.payload


async def test_a_listener_runs_until_the_end_of_its_context(bus: Bus) -> None:
    """Inside it replies; afterwards a command waits for the next listener."""
    async with running(CommandListener(bus, [say])) as listener:
        await bus.request_and_reply("echo:commands", "echo:say", {}, timeout=10)
    await bus.emit_command("echo:commands", event_type="echo:say", payload={}, request_id="r")
    assert await bus.outcome("r") is None
    assert (await stream_status(bus, "echo:commands")).event_types == ()
    listener.stop()
    async with running(CommandListener(bus, [say])):
        await bus.request_and_reply("echo:commands", "echo:say", {}, request_id="r", timeout=10)


@pytest.mark.parametrize("error", [None, LookupError("the body's own")])
async def test_running_handlers_finish_when_the_context_ends(
    bus: Bus, error: LookupError | None
) -> None:
    """The end of the body, also by an error, lets the handler finish; the error is raised."""
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
    """A body that waits for a reply is cancelled when its listener fails."""
    bus = Bus("redis://127.0.0.1:1/0", call_timeout_s=0.2)
    with pytest.raises(ServerUnavailable):
        async with running(CommandListener(bus, [say])):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await bus.close()
