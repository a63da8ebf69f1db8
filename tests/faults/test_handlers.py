"""Handlers that die, hang, block, or are stopped and go on."""

import asyncio
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from sagastream import Bus, HandlerLost
from sagastream.testing import EmbeddedServer
from tests.faults.asking import ask, notes, until_listening, until_noted
from tests.faults.figures import Figures, Row
from tests.faults.invariants import STREAM, look
from tests.faults.roles import LEASE_S, MAX_DELIVERIES, listening

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(300)]

# How a handler ends its process, and with which status; one that hangs has none.
_DEATHS = {"exit": 1, "segfault": -signal.SIGSEGV, "oom": -signal.SIGKILL, "hang": None}


@pytest.mark.invariant(5)
async def test_a_handler_that_blocks_its_loop_for_three_leases_runs_once(
    store: EmbeddedServer, figures: Figures
) -> None:
    """The lease is renewed from a thread: a blocked loop is not a dead handler."""
    with listening(store.url), listening(store.url):
        async with Bus(store.url) as bus:
            reply = await ask(bus, {"block_s": 3 * LEASE_S})
    assert reply["payload"] == {"epoch": 1}
    assert notes(store) == ["begun 1", "done 1"]
    figures.row("handler blocks its event loop for 3 leases").check(store, "r")


@pytest.mark.invariant(3)
async def test_a_handler_that_was_stopped_writes_nothing_when_it_goes_on(
    store: EmbeddedServer, figures: Figures
) -> None:
    """SIGSTOP for three leases: another finishes the work, the first one's result is refused."""
    async with Bus(store.url) as bus:
        with listening(store.url) as first:
            asked = ask(bus, {"block_s": LEASE_S / 2})
            await until_noted(store, "begun 1")
            assert first.pid is not None
            os.kill(first.pid, signal.SIGSTOP)
            stopped = time.monotonic()
            with listening(store.url):
                reply = await asked
                await asyncio.sleep(3 * LEASE_S - (time.monotonic() - stopped))
                os.kill(first.pid, signal.SIGCONT)
            other = await ask(bus, {}, "other")  # by the first one, which is awake again
            first.terminate()  # and drains: whatever it wanted to write has been tried
            await asyncio.to_thread(first.join, 20)
            assert first.exitcode == 0
    assert reply["payload"] == {"epoch": 2}
    assert other["status"] == "completed"
    figures.row("handler stopped (SIGSTOP) for 3 leases, then continued").check(store, "r")


async def _replacement(store: EmbeddedServer, lease_s: float, row: Row) -> None:
    async with Bus(store.url) as bus:
        with listening(store.url, lease_s=lease_s) as first:
            asked = ask(bus, {"wait_first": 1})
            await until_noted(store, "begun 1")
            with listening(store.url, lease_s=lease_s):
                await until_listening(store, 2)
                await asyncio.sleep(lease_s)  # a new sweeper first hears the server for a lease
                first.kill()
                killed = time.monotonic()
                await until_noted(store, "begun 2")
                row.recoveries.append((time.monotonic() - killed) / lease_s)
                await asked
    row.check(store, "r")


async def test_a_handler_that_is_killed_is_replaced_within_one_and_a_half_leases(
    server_binary: str | None, figures: Figures, is_long: bool
) -> None:
    """From the kill to the next begin, with another listener there."""
    row = figures.row("handler killed, another listener there", "leases")

    async def one() -> None:
        with EmbeddedServer(aof=True, binary=server_binary) as store:
            await _replacement(store, 1.5, row)

    for _ in range(8 if is_long else 1):
        await asyncio.gather(*(one() for _ in range(4)))
    assert max(row.recoveries) < 1.5


def _is_gone(process: BaseProcess) -> bool:
    """Whether a process has ended, or is stopped."""
    if not process.is_alive():
        return True
    try:
        state = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return not process.is_alive()
    return state.split()[0] == "T"


async def _poison(store: EmbeddedServer, how: str, row: Row) -> None:
    async with Bus(store.url) as bus:
        asked = ask(bus, {"die": how})
        for epoch in range(1, MAX_DELIVERIES + 1):
            with listening(store.url) as process:
                await until_noted(store, f"begun {epoch}")
                while not _is_gone(process):
                    await asyncio.sleep(0.01)
                assert process.exitcode == _DEATHS[how]
        with listening(store.url), pytest.raises(HandlerLost):
            await asked
    assert notes(store) == [f"begun {epoch}" for epoch in range(1, MAX_DELIVERIES + 1)]
    with look(store) as client:
        assert client.xlen(f"{STREAM}:dead") == 1
    row.check(store, "r", status="failed")


@pytest.mark.invariant(6)
async def test_a_command_that_kills_every_handler_is_given_up(
    server_binary: str | None, figures: Figures
) -> None:
    """However they die, exactly five do, then it is one dead letter and one failed reply."""

    async def one(how: str) -> None:
        row = figures.row(f"poison: each handler ends by {how}")
        with EmbeddedServer(aof=True, binary=server_binary) as store:
            await _poison(store, how, row)
        row.notes["runs"] = str(MAX_DELIVERIES)

    await asyncio.gather(*(one(how) for how in _DEATHS))


async def test_sigterm_finishes_what_runs_and_ends_the_process(
    store: EmbeddedServer, figures: Figures
) -> None:
    """The handler's reply is written, then the process ends by itself and well."""
    with listening(store.url) as process:
        async with Bus(store.url) as bus:
            asked = ask(bus, {"block_s": 2 * LEASE_S})
            await until_noted(store, "begun 1")
            process.terminate()
            reply = await asked
        await asyncio.to_thread(process.join, 20)
        assert process.exitcode == 0
    assert reply["payload"] == {"epoch": 1}
    figures.row("listener ended by SIGTERM in its handler").check(store, "r")
