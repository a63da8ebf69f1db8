"""Client clocks that are wrong by an hour: only the clock of the server counts."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagastream import Bus, DeadlineExceeded
from sagastream.saga import SagaRunner
from sagastream.testing import EmbeddedServer, child_options
from tests.faults.client import handler_log, send_request, wait_for_listeners, wait_for_log
from tests.faults.invariants import STREAM
from tests.faults.report import Report
from tests.faults.roles import SLOW_LEASE_S, WORK
from tests.plain_client import connect

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(120)]

_FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_ROOT = Path(__file__).resolve().parents[2]
_DEADLINE_S = 1.0


@contextlib.contextmanager
def _an_hour_off(hours: int, role: str, *arguments: object) -> Iterator[None]:
    """Run a role in a process whose wall clock is wrong by this many hours."""
    call = f"from tests.faults import roles; roles.{role}(*{arguments!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", call],
        cwd=_ROOT,
        env=os.environ
        | {
            "LD_PRELOAD": str(_FAKETIME[0]),
            "FAKETIME": f"{hours:+d}h",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
        **child_options(),
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()
        # faketime does not delete it after a kill, and a later process with this id would use it.
        for left in Path("/dev/shm").glob(f"*faketime_*_{process.pid}"):  # noqa: S108
            left.unlink()


@pytest.mark.skipif(not _FAKETIME, reason="needs libfaketime: apt-get install faketime")
@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.invariant(11)
async def test_clocks_that_are_wrong_change_nothing(
    store: EmbeddedServer, hours: int, report: Report
) -> None:
    """Leases and deadlines follow the server's clock, not those of listeners and requesters."""
    with (
        _an_hour_off(hours, "slow_listener", store.url),
        _an_hour_off(-hours, "slow_listener", store.url),
    ):
        await wait_for_listeners(store, 2)
        with _an_hour_off(hours, "deadline_requester", store.url, "late", _DEADLINE_S):
            async with Bus(store.url) as bus:
                replies = await asyncio.gather(
                    *(send_request(bus, {"wait_s": 1.3 * SLOW_LEASE_S}, f"r{n}") for n in range(4))
                )
                with pytest.raises(DeadlineExceeded):
                    await bus.read_replies("late:replies", "c", "late", 30)
    assert [reply["payload"] for reply in replies] == [{"attempt": 1}] * 4
    assert handler_log(store).count("done 1") == 4
    with connect(store.url) as client:
        commands = [fields for _, fields in client.xrange(STREAM)]
        (command,) = [fields for fields in commands if fields["request_id"] == "late"]
        deadline = int(command["deadline"])
        ended = [fields for _, fields in client.xrange("late:replies")][-1]
    after_s = (int(ended["timestamp"]) - deadline) / 1000
    assert deadline
    # On a busy machine the answer of a read can get lost, and then a lease and a sweep pass first.
    assert 0 <= after_s < 3 * SLOW_LEASE_S, "early, or much too late"
    assert abs(int(command["timestamp"]) - deadline) < 60_000
    row = report.row("clients' clocks one hour ahead or behind")
    row.notes["deadline met after"] = f"{after_s:.2f} s"
    row.check(store, *(f"r{n}" for n in range(4)))
    row.check(store, "late", status="failed")


@pytest.mark.skipif(not _FAKETIME, reason="needs libfaketime: apt-get install faketime")
@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.invariant(11)
async def test_a_saga_outlives_runners_with_wrong_clocks(store: EmbeddedServer, hours: int) -> None:
    """A runner an hour behind sends the step, and one an hour ahead continues; and vice versa."""
    async with Bus(store.url) as bus:
        with _an_hour_off(-hours, "slow_listener", store.url):
            await wait_for_listeners(store, 1)
            runner = SagaRunner(bus, WORK)
            saga_id = await runner.start({"wait_s": 8.0})
            with _an_hour_off(-hours, "saga_runner", store.url):
                await wait_for_log(store, "begun 1")
            with _an_hour_off(hours, "saga_runner", store.url):
                outcome = await runner.wait(saga_id)
    assert outcome.status == "completed", outcome.error
    assert [entry.attempt for entry in outcome.entries] == [1]
    assert 7.5 < outcome.duration_s < 60
