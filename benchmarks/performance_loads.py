"""What else is on the server while something is measured: a backlog, open sagas."""

import asyncio
import itertools
import socket
import time
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any

import hiredis
from performance_server import Valkey, monitored

from sagastream import Bus
from sagastream.saga.journal import Journal, JournalEntry, request_id_of
from sagastream.saga.store import SagaStore

_AT_ONCE = 1000
_REQUEST_ID = "request-template"  # as long as what takes its place


async def fill_backlog(server: Valkey, count: int) -> None:
    """Leave commands in another stream, each with its record.

    The library emits one; what that sent to the server is sent again with other request ids.
    """
    async with Bus(server.url) as bus:
        await bus.ping()
        with monitored(server) as seen:
            await bus.emit_command(
                "other:commands",
                event_type="other:do",
                payload={"number": 7},
                request_id=_REQUEST_ID,
            )
    emitted = [sent for sent in seen if any(_REQUEST_ID.encode() in word for word in sent.words)]
    one = b"".join(_packed(sent.words) for sent in emitted)
    await asyncio.to_thread(_send_again, server, one, len(emitted), count)


def _packed(words: tuple[bytes, ...]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def _send_again(server: Valkey, one: bytes, answers: int, count: int) -> None:
    reader = hiredis.Reader()
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        for first in range(0, count, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, count))
            ids = (b"request-%08d" % number for number in numbers)
            link.sendall(b"".join(one.replace(_REQUEST_ID.encode(), new) for new in ids))
            for _ in range(answers * len(numbers)):
                while (answer := reader.gets()) is False:
                    reader.feed(link.recv(1 << 16))
                if isinstance(answer, hiredis.ReplyError):
                    raise answer


async def fill_sagas(server: Valkey, count: int) -> None:
    """Leave sagas that are at their second step, each journal written by the library."""
    async with Bus(server.url) as bus:
        await bus.ping()
        store = SagaStore(bus, "other", wake_after_s=3600.0)
        await _in_turns(store.put(_journal(f"saga-{number}"), None, 0) for number in range(count))


async def _in_turns(doing: Iterable[Coroutine[Any, Any, Any]]) -> None:
    left = iter(doing)
    while batch := list(itertools.islice(left, _AT_ONCE)):
        await asyncio.gather(*batch)


def _journal(saga_id: str) -> Journal:
    first, second = (
        JournalEntry(step, "forward", 1, request_id_of(saga_id, step, "forward", 1), {"number": 7})
        for step in ("first", "second")
    )
    entries = (replace(first, status="completed", result={"number": 7}, ended=time.time()), second)
    return Journal(saga_id, "other", saga_id, {"number": 7}, entries=entries, started=time.time())
