"""Fill the server before a measurement: with a backlog, or with open sagas."""

import asyncio
import itertools
import socket
from collections.abc import Coroutine, Iterable
from typing import Any

import hiredis
from performance_server import Valkey, monitored

from sagastream import Bus, Command, CommandListener, Progress, multi_stage_reply
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.testing import running

_AT_ONCE = 1000
_REQUEST_ID = "request-template"  # as long as the ids that replace it


async def fill_backlog(server: Valkey, count: int) -> None:
    """Leave commands in another stream, each with its record.

    The library emits one command. What that sent to the server is repeated with other request ids.
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


@multi_stage_reply(stream="sagas:commands", event_type="sagas:do")
async def _do(command: Command, _progress: Progress) -> dict[str, Any]:
    return command.payload


async def _dispatch(_saga_id: str, _step: str) -> None:
    """Do not dispatch the next step."""


async def fill_sagas(server: Valkey, count: int) -> None:
    """Leave open sagas whose first step has completed."""
    steps = [
        Step(name, "sagas:commands", "sagas:do", lambda data, _: data)
        for name in ("first", "second")
    ]
    async with (
        Bus(server.url) as bus,
        Bus(server.url) as listening,
        running(CommandListener(listening, [_do], concurrency=256)),
    ):
        saga = Saga("other", tuple(steps))
        runner = SagaRunner(bus, saga, dispatch=_dispatch, wake_after_s=3600.0)

        async def fill(saga_id: str) -> None:
            await runner.start({"number": 7}, saga_id=saga_id)
            await runner.advance(saga_id)

        await _in_turns(fill(f"saga-{number}") for number in range(count))


async def _in_turns(doing: Iterable[Coroutine[Any, Any, Any]]) -> None:
    left = iter(doing)
    while batch := list(itertools.islice(left, _AT_ONCE)):
        await asyncio.gather(*batch)
