"""A disk that is full while requests are made."""

import asyncio
import time
from pathlib import Path

import pytest
import redis

from sagastream import Bus
from tests.faults.asking import ask, until_listening
from tests.faults.figures import Figures
from tests.faults.full_disk import DISKS, Fsync
from tests.faults.invariants import STREAM, look
from tests.faults.roles import LEASE_S, listening

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
    figures: Figures,
) -> None:
    """The server refuses, or ends; with room again every request is answered, once."""
    disk = DISKS[how](tmp_path)
    row = figures.row(f"disk full ({how}), `appendfsync {fsync}`")
    names = [f"r{number}" for number in range(40)]
    with disk.server(fsync, server_binary, monkeypatch) as store:
        async with Bus(store.url, call_timeout_s=60) as bus:
            with listening(store.url):
                await until_listening(store, 1)
                asked = [ask(bus, {"echo": {"text": "x" * 4000}}, name) for name in names[:20]]
                await asked[0]
                disk.fill(store)
                asked += [ask(bus, {"echo": {"text": "x" * 4000}}, name) for name in names[20:]]
                with look(store) as client:
                    while not _refuses(client):
                        await asyncio.sleep(0.02)
                await asyncio.sleep(2 * LEASE_S)
                unanswered = sum(not task.done() for task in asked)
                assert unanswered, "the disk was never full"
                disk.free(store)
                if fsync == "always":
                    store.kill()  # it has ended by itself, as it must: reap it
                    await asyncio.to_thread(store.start)
                freed = time.monotonic()
                replies = await asyncio.gather(*asked)
                row.recoveries.append(time.monotonic() - freed)
                row.check(store, *names)
    assert {reply["payload"]["text"] for reply in replies} == {"x" * 4000}
    row.notes["held up"] = f"{unanswered} requests"


def _refuses(client: "redis.Redis") -> bool:
    """Whether the server takes no writes now, or is gone."""
    try:
        client.xlen(STREAM)
        client.set("probe", "x" * 100_000, px=1)
    except redis.ResponseError as error:
        return "MISCONF" in str(error)
    except redis.ConnectionError:
        return True
    return False
