"""Many requests, malformed entries, and a server that lost its data."""

import asyncio
import random
import time
from typing import Any

import pytest

from sagastream import Bus, DataLost
from sagastream.testing import EmbeddedServer
from tests.faults.client import handler_log, wait_for_commands
from tests.faults.invariants import STREAM
from tests.faults.report import Report
from tests.faults.roles import listener_process
from tests.plain_client import connect
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(600)]

_NAMES = [
    *("event_type", "payload", "request_id", "correlation_id", "saga_id", "reply_stream"),
    *("deadline", "timestamp", "traceparent", "tracestate", "parent_span_id", "v", "surprise"),
]
_VALUES = [
    *(b"work:do", b"work:no", b"{}", b'{"a":1}', b"{", b"[]", b'{"a":NaN}', b'{"a":1,"a":2}'),
    *(b"1", b"2", b"-1", b"soon", b"", b"\xff\xfe", b"x" * 300, b"a b", b"{x}", b"\x00"),
    *(b"[" * 5000, b'{"a":"\\ud800"}', b"99999999999999999999", b"00-zz", b"replies:fuzz"),
    b'{"n":' + b"9" * 5000 + b"}",
]


async def test_many_requests_in_flight_from_one_process(
    store: EmbeddedServer, report: Report, is_long: bool
) -> None:
    """Each request gets its own reply, over at most four connections."""
    count = 10_000 if is_long else 1_000
    row = report.row(f"{count:,} requests in flight from one process")

    async def one(number: int) -> dict[str, Any]:
        begun = time.monotonic()
        reply = await bus.request_and_reply(
            STREAM, "work:do", {"echo": {"n": number}}, 300, request_id=f"r{number}"
        )
        took.append(time.monotonic() - begun)
        return reply

    took: list[float] = []
    async with Bus(store.url) as bus:
        asked = [asyncio.create_task(one(number)) for number in range(count)]
        await wait_for_commands(store, count)
        with connect(store.url) as client:
            connections = len(client.client_list()) - 1
        with listener_process(store.url):
            replies = await asyncio.gather(*asked)
    wrong = sum(reply["payload"]["n"] != number for number, reply in enumerate(replies))
    row.notes |= {
        "wrong replies": str(wrong),
        "connections": str(connections),
        "p99": f"{sorted(took)[count * 99 // 100]:.1f} s",
    }
    assert wrong == 0
    assert connections <= 4
    row.check(store, *(f"r{number}" for number in range(count)))


@pytest.mark.invariant(6)
async def test_malformed_entries_do_not_kill_the_listener(
    store: EmbeddedServer, report: Report, is_long: bool
) -> None:
    """Each entry ends as a dead letter or with a reply, and valid commands are handled."""
    count = 100_000 if is_long else 3_000
    rng = random.Random(7)
    with connect(store.url) as client, listener_process(store.url) as process:
        pipeline = client.pipeline(transaction=False)
        for number in range(count):
            names = rng.sample(_NAMES, rng.randint(1, 6))
            fields = {name: rng.choice(_VALUES) for name in names}
            if rng.random() < 0.3:
                fields |= {"event_type": b"work:do", "payload": b"{}"}
            pipeline.xadd(STREAM, fields)
            if number % 1000 == 999:
                pipeline.execute()
        pipeline.execute()
        async with Bus(store.url) as bus:
            reply = await bus.request_and_reply(STREAM, "work:do", {"echo": {"n": 1}}, 500)

        def is_drained() -> bool:
            group = client.xinfo_groups(STREAM)[0]
            return not group["pending"] and not group["lag"]

        await eventually(is_drained, within_s=500, why="the listener has read and acked all")
        assert process.is_alive()
        assert reply["payload"]["n"] == 1
        assert client.xlen(f"{STREAM}:dead") > count / 10
        unended = [  # the record of an ended request is a string
            key
            for key in client.scan_iter("request:*", count=1000)
            if not key.endswith(":stages") and client.type(key) != "string"
        ]
        row = report.row("malformed entries in the command stream")
        row.tries += count
        row.lost += len(unended)
        row.notes |= {
            "dead letters": f"{client.xlen(f'{STREAM}:dead'):,}",
            "listeners lost": str(int(not process.is_alive())),
        }
        assert unended == []


@pytest.mark.parametrize("waiting", ["request_and_reply", "read_replies"])
@pytest.mark.invariant(12)
async def test_data_loss_is_reported_within_two_seconds(
    store: EmbeddedServer, waiting: str, report: Report
) -> None:
    """After FLUSHALL each waiting requester gets DataLost, and new requests are handled."""
    with listener_process(store.url):
        async with Bus(store.url) as bus:
            await bus.request_and_reply(STREAM, "work:do", {})
            await bus.emit_command(
                STREAM,
                event_type="work:do",
                payload={"wait": 1},
                request_id="r",
                correlation_id="c",
                reply_stream="mine",
            )
            if waiting == "read_replies":
                asked = asyncio.create_task(bus.read_replies("mine", "c", "r", 60))
            else:
                asked = asyncio.create_task(
                    bus.request_and_reply(
                        STREAM, "work:do", {"wait": 1}, 60, request_id="r", correlation_id="c"
                    )
                )
            with connect(store.url) as client:
                # begun and done of the first request, begun of the second one
                await eventually(
                    lambda: len(handler_log(store)) >= 3, within_s=60, why="the second handler runs"
                )
                client.flushall()
            flushed = time.monotonic()
            with pytest.raises(DataLost, match="another one, or empty"):
                await asyncio.wait_for(asked, 10)
            took = time.monotonic() - flushed
            reply = await bus.request_and_reply(STREAM, "work:do", {}, 30)
    assert reply["status"] == "completed"
    # The requests are lost with the data: only their number and the time to the report count.
    row = report.row("FLUSHALL: detected and reported")
    row.tries += 1
    row.recoveries.append(took)
    assert took < 2.0


async def test_restored_older_data_are_reported(store: EmbeddedServer, report: Report) -> None:
    """A counter of commands that is lower than before means older data."""
    async with Bus(store.url) as bus:
        for number in range(5):
            await bus.emit_command(STREAM, event_type="work:do", payload={"n": number})
        with connect(store.url) as client:
            client.hset("sagastream:instance", "emitted", 2)
        with pytest.raises(DataLost, match="3 commands older"):
            await bus.read_replies("mine", "c", "r", 5)
    report.row("older data restored: detected and reported").tries += 1
