"""Handlers that die, hang, block, or are suspended and continue."""

import asyncio
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from sagastream import Bus, HandlerLost
from sagastream.testing import EmbeddedServer
from tests.faults.client import handler_log, send_request, wait_for_listeners, wait_for_log
from tests.faults.invariants import STREAM
from tests.faults.report import Report, Row
from tests.faults.roles import LEASE_S, MAX_DELIVERIES, listener_process
from tests.plain_client import connect
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(300)]

# How a handler ends its process, and the exit code; a process that hangs has none.
_DEATHS = {"exit": 1, "segfault": -signal.SIGSEGV, "oom": -signal.SIGKILL, "hang": None}


@pytest.mark.invariant(5)
async def test_a_handler_that_blocks_its_loop_for_three_leases_runs_once(
    store: EmbeddedServer, report: Report
) -> None:
    """The lease is renewed from another thread, so a blocked loop does not lose it."""
    with listener_process(store.url), listener_process(store.url):
        async with Bus(store.url) as bus:
            reply = await send_request(bus, {"block_s": 3 * LEASE_S})
    assert reply["payload"] == {"attempt": 1}
    assert handler_log(store) == ["begun 1", "done 1"]
    report.row("handler blocks its event loop for 3 leases").check(store, "r")


@pytest.mark.invariant(3)
async def test_a_suspended_handler_writes_nothing_when_it_continues(
    store: EmbeddedServer, report: Report
) -> None:
    """After three leases of SIGSTOP another handler has finished, and the result is refused."""
    async with Bus(store.url) as bus:
        with listener_process(store.url) as first:
            asked = send_request(bus, {"block_s": LEASE_S / 2})
            await wait_for_log(store, "begun 1")
            assert first.pid is not None
            os.kill(first.pid, signal.SIGSTOP)
            stopped = time.monotonic()
            with listener_process(store.url):
                reply = await asked
                # The rest of the time for which the process is suspended.
                await asyncio.sleep(3 * LEASE_S - (time.monotonic() - stopped))
                os.kill(first.pid, signal.SIGCONT)
            other = await send_request(bus, {}, "other")  # handled by the first process
            first.terminate()  # it drains, so that all its writes have been tried
            await asyncio.to_thread(first.join, 20)
            assert first.exitcode == 0
    assert reply["payload"] == {"attempt": 2}
    assert other["status"] == "completed"
    report.row("handler stopped (SIGSTOP) for 3 leases, then continued").check(store, "r")


async def _replace_handler(store: EmbeddedServer, lease_s: float, row: Row) -> None:
    async with Bus(store.url) as bus:
        with listener_process(store.url, lease_s=lease_s) as first:
            asked = send_request(bus, {"wait_first": 1})
            await wait_for_log(store, "begun 1")
            with listener_process(store.url, lease_s=lease_s):
                await wait_for_listeners(store, 2)
                # A new listener sweeps only after one lease of contact with the server.
                await asyncio.sleep(lease_s)
                first.kill()
                killed = time.monotonic()
                await wait_for_log(store, "begun 2")
                row.recoveries.append((time.monotonic() - killed) / lease_s)
                await asked
    row.check(store, "r")


async def test_a_handler_that_is_killed_is_replaced_within_one_and_a_half_leases(
    server_binary: str | None, report: Report, is_long: bool
) -> None:
    """The time from the kill to the next claim, with another listener running."""
    row = report.row("handler killed, another listener there", "leases")

    async def one() -> None:
        with EmbeddedServer(aof=True, binary=server_binary) as store:
            await _replace_handler(store, 1.5, row)

    for _ in range(8 if is_long else 1):
        await asyncio.gather(*(one() for _ in range(4)))
    assert max(row.recoveries) < 1.5


def _has_stopped(process: BaseProcess) -> bool:
    """Return whether a process has ended or is suspended."""
    if not process.is_alive():
        return True
    try:
        state = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return not process.is_alive()
    return state.split()[0] == "T"


async def _poison(store: EmbeddedServer, how: str, row: Row) -> None:
    async with Bus(store.url) as bus:
        asked = send_request(bus, {"die": how})
        for epoch in range(1, MAX_DELIVERIES + 1):
            with listener_process(store.url) as process:
                await wait_for_log(store, f"begun {epoch}")
                await eventually(
                    lambda process=process: _has_stopped(process),  # type: ignore[misc]
                    within_s=60,
                    why=f"the handler ended by {how}",
                )
                assert process.exitcode == _DEATHS[how]
        with listener_process(store.url), pytest.raises(HandlerLost):
            await asked
    assert handler_log(store) == [f"begun {epoch}" for epoch in range(1, MAX_DELIVERIES + 1)]
    with connect(store.url) as client:
        assert client.xlen(f"{STREAM}:dead") == 1
    row.check(store, "r", status="failed")


@pytest.mark.invariant(6)
async def test_a_command_that_kills_each_handler_becomes_a_dead_letter(
    server_binary: str | None, report: Report
) -> None:
    """However they die, exactly five do; then there is one dead letter and one failed reply."""

    async def one(how: str) -> None:
        row = report.row(f"poison: each handler ends by {how}")
        with EmbeddedServer(aof=True, binary=server_binary) as store:
            await _poison(store, how, row)
        row.notes["runs"] = str(MAX_DELIVERIES)

    await asyncio.gather(*(one(how) for how in _DEATHS))


async def test_sigterm_lets_the_handler_finish_and_ends_the_process(
    store: EmbeddedServer, report: Report
) -> None:
    """The reply of the handler is written, then the process exits with code 0."""
    with listener_process(store.url) as process:
        async with Bus(store.url) as bus:
            asked = send_request(bus, {"block_s": 2 * LEASE_S})
            await wait_for_log(store, "begun 1")
            process.terminate()
            reply = await asked
        await asyncio.to_thread(process.join, 20)
        assert process.exitcode == 0
    assert reply["payload"] == {"attempt": 1}
    report.row("listener ended by SIGTERM in its handler").check(store, "r")
