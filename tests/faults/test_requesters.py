"""Requesters that die, and other processes that wait for the same reply."""

import time
from multiprocessing.process import BaseProcess

import pytest

from sagastream import Bus
from sagastream.testing import EmbeddedServer
from tests.faults.client import handler_log, send_request
from tests.faults.report import Report
from tests.faults.roles import kill_and_wait, listener_process, requester, spawn
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(300)]


@pytest.mark.parametrize("when", ["runs", "has ended"])
async def test_another_process_has_the_reply_within_a_second(
    store: EmbeddedServer, when: str, report: Report, is_long: bool
) -> None:
    """The same id is the same request for each process: it runs once, and answers at once."""
    row = report.row(f"requester killed, another waits for the same id when the request {when}")
    payload = {"wait_s": 0.3}
    with listener_process(store.url):
        for turn in range(25 if is_long else 3):
            name = f"r{turn}"
            killed = spawn(requester, store.url, payload, name)

            def has_begun(killed: BaseProcess = killed, turn: int = turn) -> bool:
                assert killed.is_alive()
                return handler_log(store).count("begun 1") > turn

            await eventually(has_begun, within_s=60, why="a handler began the request")
            kill_and_wait(killed)
            async with Bus(store.url) as bus:
                if when == "has ended":
                    async for _ in bus.follow(name):
                        pass
                asked = time.monotonic()
                reply = await send_request(bus, payload, name)
                took_s = time.monotonic() - asked
            row.recoveries.append(took_s)
            assert reply["payload"] == {"attempt": 1}
            row.check(store, name)
    assert handler_log(store).count("begun 1") == len(row.recoveries)
    assert max(row.recoveries) < 1.0 + payload["wait_s"]
