"""The append-only file cut at every record: what a power loss may leave behind."""

import asyncio
from pathlib import Path
from typing import Any

import hiredis
import pytest

from sagastream import Bus
from sagastream.testing import EmbeddedServer
from tests.faults.figures import Figures
from tests.faults.invariants import STREAM, look
from tests.faults.roles import listening

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(900)]


def _ends_of_records(data: bytes) -> list[int]:
    """The offset behind each command in an append-only file."""
    reader: Any = hiredis.Reader()
    ends, fed = [], 0
    for number, byte in enumerate(data):
        reader.feed(bytes([byte]))
        if reader.gets() is not False:
            fed = number + 1
            ends.append(fed)
    return ends


def _ask(store: EmbeddedServer) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with Bus(store.url) as bus:
            return await bus.request_and_reply(
                STREAM, "work:do", {}, 30, request_id="r", correlation_id="c"
            )

    with listening(store.url):
        return asyncio.run(ask())


def test_the_file_cut_anywhere_is_a_state_to_go_on_from(
    store: EmbeddedServer, figures: Figures, is_long: bool
) -> None:
    """Whatever of a request is left on disk, asking again ends it, with one entry and one end."""
    whole = _ask(store)
    store.stop()
    folder = Path(store.url.removeprefix("unix://")).parent / "appendonlydir"
    (file,) = folder.glob("*.incr.aof")
    data = file.read_bytes()
    cuts = _ends_of_records(data)
    step = 1 if is_long else 8
    row = figures.row("append-only file cut behind a record (power loss)")
    for cut in cuts[::step]:
        for name in folder.glob("*.incr.aof"):
            name.write_bytes(data[:cut])
        store.start()
        with look(store) as client:
            before = client.hgetall("request:r")
        reply = _ask(store)
        assert reply["status"] == "completed"
        if before.get("status") == "completed":
            assert reply["timestamp"] == whole["timestamp"], "the first end stays"
        row.check(store, "r")
        store.stop()
    assert len(cuts) > 20
    row.notes["records"] = str(len(cuts))
