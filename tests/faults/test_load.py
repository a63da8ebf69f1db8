"""Many requests, much rubbish, and a server that lost everything."""

import asyncio
import random
import time
from typing import Any

import pytest

from sagastream import Bus, DataLost
from sagastream.message import TERMINAL_STAGES
from sagastream.testing import EmbeddedServer
from tests.faults.figures import Figures
from tests.faults.invariants import STREAM, look
from tests.faults.roles import listening

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
    store: EmbeddedServer, figures: Figures, is_long: bool
) -> None:
    """Each gets its own reply, over no more than four connections."""
    count = 10_000 if is_long else 1_000
    row = figures.row(f"{count:,} requests in flight from one process")

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
        with look(store) as client:
            while client.xlen(STREAM) < count:
                await asyncio.sleep(0.05)
            connections = len(client.client_list()) - 1
        with listening(store.url):
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
async def test_rubbish_in_the_stream_kills_nobody(
    store: EmbeddedServer, figures: Figures, is_long: bool
) -> None:
    """Each entry ends as a dead letter or with a reply, and good work goes on."""
    count = 100_000 if is_long else 3_000
    dice = random.Random(7)
    with look(store) as client, listening(store.url) as process:
        pipeline = client.pipeline(transaction=False)
        for number in range(count):
            names = dice.sample(_NAMES, dice.randint(1, 6))
            fields = {name: dice.choice(_VALUES) for name in names}
            if dice.random() < 0.3:
                fields |= {"event_type": b"work:do", "payload": b"{}"}
            pipeline.xadd(STREAM, fields)
            if number % 1000 == 999:
                pipeline.execute()
        pipeline.execute()
        async with Bus(store.url) as bus:
            reply = await bus.request_and_reply(STREAM, "work:do", {"echo": {"n": 1}}, 500)
        group = client.xinfo_groups(STREAM)[0]
        while group["pending"] or group["lag"]:
            await asyncio.sleep(0.1)
            group = client.xinfo_groups(STREAM)[0]
        assert process.is_alive()
        assert reply["payload"]["n"] == 1
        assert client.xlen(f"{STREAM}:dead") > count / 10
        unended = [
            key
            for key in client.scan_iter("request:*", count=1000)
            if not key.endswith(":stages") and client.hget(key, "status") not in TERMINAL_STAGES
        ]
        row = figures.row("rubbish written into the command stream")
        row.tries += count
        row.lost += len(unended)
        row.notes |= {
            "dead letters": f"{client.xlen(f'{STREAM}:dead'):,}",
            "listeners lost": str(int(not process.is_alive())),
        }
        assert unended == []


@pytest.mark.parametrize("waiting", ["request_and_reply", "read_replies"])
@pytest.mark.invariant(12)
async def test_a_server_that_lost_everything_is_noticed_within_two_seconds(
    store: EmbeddedServer, waiting: str, figures: Figures
) -> None:
    """FLUSHALL cannot be survived: whoever waits is told, and new work goes on."""
    with listening(store.url):
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
            with look(store) as client:
                while client.llen("notes") < 3:
                    await asyncio.sleep(0.02)
                client.flushall()
            flushed = time.monotonic()
            with pytest.raises(DataLost, match="another one, or empty"):
                await asyncio.wait_for(asked, 10)
            took = time.monotonic() - flushed
            reply = await bus.request_and_reply(STREAM, "work:do", {}, 30)
    assert reply["status"] == "completed"
    # It cannot be survived, so there is nothing to be lost or doubled: only to be noticed.
    row = figures.row("FLUSHALL: noticed, and said")
    row.tries += 1
    row.recoveries.append(took)
    assert took < 2.0


async def test_older_data_put_back_are_noticed(store: EmbeddedServer, figures: Figures) -> None:
    """The counter of commands must never fall."""
    async with Bus(store.url) as bus:
        for number in range(5):
            await bus.emit_command(STREAM, event_type="work:do", payload={"n": number})
        with look(store) as client:
            client.hset("sagastream:instance", "emitted", 2)
        with pytest.raises(DataLost, match="3 commands older"):
            await bus.read_replies("mine", "c", "r", 5)
    figures.row("older data put back: noticed, and said").tries += 1
