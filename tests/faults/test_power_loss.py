"""The append-only file, cut after each record, as a power loss may leave it."""

import asyncio
from pathlib import Path
from typing import Any

import hiredis
import pytest

from sagastream import Bus
from sagastream.testing import EmbeddedServer
from tests.faults.invariants import STREAM
from tests.faults.report import Report
from tests.faults.roles import listener_process
from tests.plain_client import connect
from tests.records import read_record

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(900)]


def _ends_of_records(data: bytes) -> list[int]:
    """Return the offset of the end of each command in an append-only file."""
    reader: Any = hiredis.Reader()
    ends, fed = [], 0
    for number, byte in enumerate(data):
        reader.feed(bytes([byte]))
        if reader.gets() is not False:
            fed = number + 1
            ends.append(fed)
    return ends


def _request(store: EmbeddedServer) -> dict[str, Any]:
    async def request() -> dict[str, Any]:
        async with Bus(store.url) as bus:
            return await bus.request_and_reply(
                STREAM, "work:do", {}, 30, request_id="r", correlation_id="c"
            )

    with listener_process(store.url):
        return asyncio.run(request())


def test_a_request_ends_from_any_state_on_disk(
    store: EmbeddedServer, report: Report, is_long: bool
) -> None:
    """Whatever part of a request is on disk, sending it again ends it, with one entry and end."""
    whole = _request(store)
    store.stop()
    folder = Path(store.url.removeprefix("unix://")).parent / "appendonlydir"
    (file,) = folder.glob("*.incr.aof")
    data = file.read_bytes()
    cuts = _ends_of_records(data)
    step = 1 if is_long else 8
    row = report.row("append-only file cut after a record (power loss)")
    for cut in cuts[::step]:
        for name in folder.glob("*.incr.aof"):
            name.write_bytes(data[:cut])
        store.start()
        with connect(store.url) as client:
            before = read_record(client, "r")
        reply = _request(store)
        assert reply["status"] == "completed"
        if before.get("status") == "completed":
            assert reply["timestamp"] == whole["timestamp"], "the first outcome stays"
        row.check(store, "r")
        store.stop()
    assert len(cuts) > 20
    row.notes["records"] = str(len(cuts))
