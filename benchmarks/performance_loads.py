"""What else is on the server while something is measured: a backlog, open sagas."""

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any

from performance_arena import Valkey

from sagastream import Bus
from sagastream.journal import Entry, Journal, request_id_of
from sagastream.saga_store import SagaStore

_AT_ONCE = 2000


async def fill_backlog(server: Valkey, count: int) -> None:
    """Leave commands in another stream, each emitted by the library, with its record."""
    async with Bus(server.url, max_waiting=_AT_ONCE) as bus:
        await bus.ping()
        await _in_turns(
            bus.emit_command("other:commands", event_type="other:do", payload={"number": number})
            for number in range(count)
        )


async def fill_sagas(server: Valkey, count: int) -> None:
    """Leave sagas that are at their second step, each journal written by the library."""
    async with Bus(server.url) as bus:
        await bus.ping()
        store = SagaStore(bus, "other", nudge_s=3600.0)
        await _in_turns(store.put(_journal(f"saga-{number}"), None, 0) for number in range(count))


async def _in_turns(doing: Iterable[Coroutine[Any, Any, Any]]) -> None:
    left = iter(doing)
    while batch := list(itertools.islice(left, _AT_ONCE)):
        await asyncio.gather(*batch)


def _journal(saga_id: str) -> Journal:
    first, second = (
        Entry(step, "forward", 1, request_id_of(saga_id, step, "forward", 1), {"number": 7})
        for step in ("first", "second")
    )
    entries = (replace(first, status="completed", result={"number": 7}, ended=time.time()), second)
    return Journal(saga_id, "other", saga_id, {"number": 7}, entries=entries, started=time.time())
