"""A disk that is full while requests are sent."""

import asyncio
import time
from pathlib import Path

import pytest
import redis

from sagastream import Bus
from tests.faults.client import send_request, wait_for_listeners
from tests.faults.full_disk import DISKS, Fsync
from tests.faults.invariants import STREAM
from tests.faults.report import Report
from tests.faults.roles import LEASE_S, listener_process
from tests.plain_client import connect
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(120)]


@pytest.mark.parametrize("how", DISKS)
@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_a_full_disk_is_waited_for(
    how: str,
    fsync: Fsync,
    *,
    tmp_path: Path,
    server_binary: str | None,
    monkeypatch: pytest.MonkeyPatch,
    report: Report,
) -> None:
    """The server refuses writes, or ends; with free space again each request is answered once."""
    disk = DISKS[how](tmp_path)
    row = report.row(f"disk full ({how}), `appendfsync {fsync}`")
    names = [f"r{number}" for number in range(40)]
    with disk.server(fsync, server_binary, monkeypatch) as store:
        async with Bus(store.url, call_timeout_s=60) as bus:
            with listener_process(store.url):
                await wait_for_listeners(store, 1)
                asked = [
                    send_request(bus, {"echo": {"text": "x" * 4000}}, name) for name in names[:20]
                ]
                await asked[0]
                disk.fill(store)
                asked += [
                    send_request(bus, {"echo": {"text": "x" * 4000}}, name) for name in names[20:]
                ]
                with connect(store.url) as client:
                    await eventually(
                        lambda: _refuses(client), within_s=60, why="the server refuses writes"
                    )
                await asyncio.sleep(2 * LEASE_S)  # the duration of the fault
                unanswered = sum(not task.done() for task in asked)
                assert unanswered, "the disk was never full"
                disk.free(store)
                if fsync == "always":
                    store.kill()  # it has ended by itself: this reaps the process
                    await asyncio.to_thread(store.start)
                freed = time.monotonic()
                replies = await asyncio.gather(*asked)
                row.recoveries.append(time.monotonic() - freed)
                row.check(store, *names)
    assert {reply["payload"]["text"] for reply in replies} == {"x" * 4000}
    row.notes["delayed"] = f"{unanswered} requests"


def _refuses(client: "redis.Redis") -> bool:
    """Return whether the server refuses writes, or has ended."""
    try:
        client.xlen(STREAM)
        client.set("probe", "x" * 100_000, px=1)
    except redis.ResponseError as error:
        return "MISCONF" in str(error)
    except redis.ConnectionError:
        return True
    return False
