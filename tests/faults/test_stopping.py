"""Listeners that are told to stop while they read and work, and a primary that fails over."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from sagastream import Atomic, Bus, Command, Handler, Progress, multi_stage_reply
from sagastream.testing import EmbeddedServer
from tests.failover import Names, Pair, fail_over
from tests.faults.client import send_request, wait_for_listeners, wait_for_log
from tests.faults.invariants import STREAM
from tests.faults.report import Report
from tests.faults.roles import (
    LEASE_S,
    in_process,
    increment,
    listener_process,
    threaded_listener,
)
from tests.listeners import listening
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(600)]


@pytest.mark.invariant(4)
async def test_sigterm_during_reads_loses_nothing(
    store: EmbeddedServer, report: Report, is_long: bool
) -> None:
    """Listeners come and go while commands arrive; each drains or gives back what it has read."""
    rounds, rng = 60 if is_long else 6, random.Random(3)
    ids: list[str] = []
    replies: list[asyncio.Task[dict[str, object]]] = []
    async with Bus(store.url) as bus:
        with listener_process(store.url):
            for number in range(rounds):
                with listener_process(store.url) as process:
                    stop_at = time.monotonic() + rng.uniform(0.3, 0.8)
                    while time.monotonic() < stop_at:
                        ids.append(f"{number}-{len(ids)}")
                        replies.append(send_request(bus, {"wait_s": 0.1}, ids[-1]))
                        await asyncio.sleep(0.02)
                    process.terminate()
                    await asyncio.to_thread(process.join, 20)
                    assert process.exitcode == 0
            await asyncio.gather(*replies)
    row = report.row("listener ended by SIGTERM while it reads")
    row.notes["listeners"] = str(rounds)
    row.check(store, *ids)


@pytest.mark.invariant(4)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_listener_in_uvicorn_stops_with_it(
    store: EmbeddedServer,
    report: Report,
    is_long: bool,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """Web servers come and go; what each has read is finished, or given back at once."""
    rounds = 20 if is_long else 3
    ids: list[str] = []
    replies: list[asyncio.Task[dict[str, object]]] = []
    command = ("-m", "uvicorn", "tests.faults.hosted_listener:app", "--log-level", "warning")
    async with Bus(store.url) as bus:
        with listener_process(store.url):
            for number_of_server in range(rounds):
                server = await asyncio.create_subprocess_exec(
                    *(sys.executable, *command, "--uds", str(tmp_path / "web.sock")),
                    env=os.environ | {"SERVER_URL": store.url},
                )
                try:
                    await wait_for_listeners(store, 2)
                    for _ in range(12):
                        ids.append(f"{number_of_server}-{len(ids)}")
                        replies.append(send_request(bus, {"wait_s": 0.1}, ids[-1]))
                    await asyncio.sleep(0.1)  # some of them are in its handlers
                    server.send_signal(number)
                    began = time.monotonic()
                    await asyncio.wait_for(server.wait(), 20)
                    assert time.monotonic() - began < 5
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        server.kill()
                    await server.wait()
            await asyncio.gather(*replies)
    row = report.row(f"listener in uvicorn, ended by {number.name}")
    row.notes["servers"] = str(rounds)
    row.check(store, *ids)


@pytest.mark.invariant(4)
async def test_a_thread_that_does_not_end_holds_up_nobody(
    store: EmbeddedServer, report: Report
) -> None:
    """Its process ends after `drain_s`; the lease lapses, and another listener takes over."""
    row = report.row("listener ended by SIGTERM, its thread does not end", "leases")
    async with Bus(store.url) as bus:
        with in_process(threaded_listener, store.url) as process:
            reply = send_request(bus, {})
            await wait_for_log(store, "begun 1")
            process.terminate()
            began = time.monotonic()
            await asyncio.to_thread(process.join, 20)
            assert process.exitcode == 0
            assert time.monotonic() - began < 10
        with in_process(threaded_listener, store.url):
            assert (await reply)["payload"] == {"attempt": 2}
            row.recoveries.append((time.monotonic() - began) / LEASE_S)
    row.check(store, "r")


def _counting(bus: Bus) -> Handler:
    """A handler that counts its effect, and takes some time."""

    @multi_stage_reply(stream=STREAM, event_type="work:do", effect="atomic")
    async def work(command: Command, progress: Progress) -> Atomic:
        await progress(0.5)
        await asyncio.sleep(0.05)
        return Atomic({}, (await increment(bus, "effects", command.request_id),))

    return work


@pytest.mark.invariant(12)
async def test_a_clean_failover_loses_and_doubles_nothing(
    pair: Pair, names: Names, report: Report, is_long: bool
) -> None:
    """Requests are under way while the roles change, and the name follows some time later."""
    count = 200 if is_long else 40
    row = report.row("clean failover (FAILOVER), the name leads to the new primary 0.3 s later")
    url = names.url
    ids = [f"r{number}" for number in range(count)]
    async with (
        Bus(url) as bus,
        listening(bus, [_counting(bus)], lease_s=LEASE_S, concurrency=16),
    ):
        replies = [send_request(bus, {}, request_id) for request_id in ids]
        await eventually(
            lambda: any(reply.done() for reply in replies), within_s=20, why="they are handled"
        )
        began = time.monotonic()
        await asyncio.to_thread(fail_over, pair)
        await asyncio.sleep(0.3)
        names.port = pair.second_port
        await asyncio.gather(*replies)
        row.recoveries.append(time.monotonic() - began)
    row.check(pair.second, *ids)
