"""What the server keeps of a request that waits: its record, and its place in the index."""

import asyncio
import dataclasses
import random
import struct
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from sagastream import Bus, Command, Priority, Retention, UnknownLayout, multi_stage_reply
from sagastream._functions.library import RECORD_LAYOUT, function_name
from sagastream._telemetry import spans
from sagastream.errors import ServerError
from sagastream.flow_control import pause, queues, resume
from tests.listeners import listening
from tests.plain_client import add_entry, call
from tests.polling import eventually
from tests.records import record_of

STREAM = "work:commands"
INDEX = f"{STREAM}:later"
UUID = "6fa459ea-ee8a-3ca4-894e-db77e160355e"
# Texts that are almost what a packed one looks like, or almost what is packed.
ODD_TEXTS = ("u" * 17, "w" * 26, "s" * 9, "t", UUID.upper(), "é" * 18, "0" * 16)
SPAN = SpanContext(
    trace_id=0x0AF7651916CD43DD8448EB211C80319C,
    span_id=0x00AD6B7169203331,
    is_remote=True,
    trace_flags=TraceFlags(1),
    trace_state=TraceState([("vendor", "x")]),
)
OPTIONS: dict[str, Mapping[str, Any]] = {
    "plain": {},
    "UUIDs": {"correlation_id": UUID, "saga_id": "saga-1"},
    "payload": {"payload": {"text": "é\n\0", "list": [1, None, {"a": 0.5}]}},
    "reply stream": {"reply_stream": "answers:to-others"},
    "deadline": {"deadline_s": 7000.0},
    "turn": {"priority": Priority("high", fairness_key="tenant 1", weight=2.0)},
    "all": {
        "correlation_id": UUID,
        "reply_stream": "answers:to-others",
        "deadline_s": 7000.0,
        "priority": Priority("low"),
        "payload": {"n": 1},
    },
    **{f"correlation id {text[:4]}": {"correlation_id": text} for text in ODD_TEXTS},
}
# What differs between a request that waits and one that does not.
_OWN = {"request_id", "correlation_id", "deadline", "entry_id", "epoch"}


@pytest.fixture(autouse=True)
def no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """No emit has a span, whichever provider other tests have set: the caller's context is passed on."""
    monkeypatch.setattr(spans, "_records", lambda: False)


@pytest.fixture(params=["traced", "untraced"])
def tracing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Emit within a span of the caller, or within none."""
    if request.param == "untraced":
        yield
        return
    with trace.use_span(NonRecordingSpan(SPAN)):
        yield


async def _emit(bus: Bus, request_id: str, **options: Any) -> str:
    options.setdefault("payload", {})
    return await bus.emit_command(STREAM, event_type="work:do", request_id=request_id, **options)


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("name", OPTIONS)
async def test_a_handler_gets_the_command_that_was_emitted(bus: Bus, name: str) -> None:
    """Whether it waited or not: each field is the same."""
    options, seen = OPTIONS[name], dict[str, Command]()

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def work(command: Command) -> None:
        seen[command.request_id] = command

    await _emit(bus, "now", **options)
    await _emit(bus, "later", delay_s=0.2, **options)
    assert await call(bus, "TYPE", "request:later") == b"string"
    async with listening(bus, [work]):
        await eventually(lambda: len(seen) == 2, within_s=10, why="both have begun")
    now, later = (dataclasses.asdict(seen[request_id]) for request_id in ("now", "later"))
    assert {k: v for k, v in now.items() if k not in _OWN} == {
        k: v for k, v in later.items() if k not in _OWN
    }
    assert later["correlation_id"] == options.get("correlation_id", later["correlation_id"])
    assert (now["deadline"] is None) == (later["deadline"] is None) == ("deadline_s" not in options)
    if "deadline_s" in options:
        assert 0 <= later["deadline"] - now["deadline"] < 60_000


async def test_it_can_be_asked_again_and_followed_while_it_waits(bus: Bus) -> None:
    """A second requester gets its reply; another payload is a conflict; its record stays small."""

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def work() -> dict[str, int]:
        return {"n": 1}

    await _emit(bus, "r", delay_s=0.3)
    await bus.emit_command(
        STREAM, event_type="work:do", payload={}, request_id="r", reply_stream="answers:to-us"
    )
    assert await call(bus, "TYPE", "request:r") == b"string"
    assert (await record_of(bus, "r"))["reply_streams"] == bus.key("answers:to-us")
    with pytest.raises(Exception, match="payload"):
        await _emit(bus, "r", payload={"n": 2})
    async with listening(bus, [work]):
        followed = [stage["status"] async for stage in bus.follow("r")]
    assert followed == ["start", "completed"]
    told = await bus.read_entries({"answers:to-us": "0-0"})
    assert [entry.fields["status"] for entry in told] == ["start", "completed"]


async def _pages(bus: Bus) -> list[list[tuple[float, bytes]]]:
    """The items of each page of the index, in the order of the pages."""
    found = []
    for first in await call(bus, "ZRANGE", INDEX, 0, -1):
        items = await call(bus, "ZRANGE", f"{INDEX}:page:{first.hex()}", 0, -1)
        assert all(item >= first for item in items)
        found.append([(struct.unpack(">d", item[:8])[0], item[8:]) for item in items])
    return found


@pytest.mark.parametrize("spread", [1, 7, 100_000], ids=["one time", "seven times", "many times"])
async def test_the_index_has_each_request_once_and_in_order(bus: Bus, spread: int) -> None:
    """In any order of emits and cancels, also for many of one time; its pages stay short."""
    chance = random.Random(spread)
    at = datetime.now(tz=UTC) + timedelta(hours=1)
    names = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(700)]
    names += [f"{text}{number}" for text in ODD_TEXTS for number in range(30)]
    due = {name: at + timedelta(milliseconds=chance.randrange(spread)) for name in names}
    chance.shuffle(names)
    await asyncio.gather(*(_emit(bus, name, not_before=due[name]) for name in names))
    gone = set(names[::3])
    for name in gone:
        assert await bus.cancel(name) == "cancelled"
    pages = await _pages(bus)
    items = [item for page in pages for item in page]
    assert items == sorted(items)
    assert sorted(score for score, _ in items) == sorted(
        float(round(due[name].timestamp() * 1000)) for name in names if name not in gone
    )
    assert max(map(len, pages)) <= 120
    assert len(pages) > 3
    (queue,) = await queues(bus, STREAM)
    assert (queue.reason, queue.waiting) == ("not before", len(names) - len(gone))
    for name in set(names) - gone:
        assert await bus.cancel(name) == "cancelled"
    assert not await bus.command("KEYS", bus.key(f"{INDEX}*"))


async def test_a_waiting_request_is_small(bus: Bus) -> None:
    """Its record and its part of the index, by the server's own count."""

    async def bytes_of(key: str) -> int:
        return int(await call(bus, "MEMORY", "USAGE", key))

    at = datetime.now(tz=UTC) + timedelta(hours=1)
    await asyncio.gather(
        *(_emit(bus, f"{n:022}", not_before=at + timedelta(seconds=n)) for n in range(1000))
    )
    pages = [
        int(await bus.command("MEMORY", "USAGE", key))
        for key in await bus.command("KEYS", bus.key(f"{INDEX}*"))
    ]
    record = int(await bus.command("MEMORY", "USAGE", bus.key(f"request:{7:022}")))
    is_valkey = "valkey_version" in await bus.command("INFO", "server")
    assert record - len(bus.key("")) + sum(pages) / 1000 <= (200 if is_valkey else 240)
    for number in range(1000):
        await bus.cancel(f"{number:022}")


async def test_the_index_of_another_release_is_taken_over(bus: Bus) -> None:
    """What it noted in a plain sorted set begins at its time."""
    begun = []

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def work(command: Command) -> None:
        begun.append(command.request_id)

    for number in range(3):
        await _emit(bus, f"r{number}", delay_s=0.3)
        score = int((await record_of(bus, f"r{number}"))["due"])
        await call(bus, "ZADD", f"{STREAM}:delayed", score, bus.key(f"request:r{number}"))
    for key in await bus.command("KEYS", bus.key(f"{INDEX}*")):
        await bus.command("DEL", key)
    async with listening(bus, [work]):
        await eventually(lambda: len(begun) == 3, within_s=10, why="all have begun")
    assert not await call(bus, "EXISTS", f"{STREAM}:delayed")


@pytest.mark.invariant(12)
async def test_a_waiting_record_of_a_newer_release_is_left_to_it(bus: Bus) -> None:
    """It is named, stays as it is when its time comes, and holds up no other."""
    begun = []

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def work(command: Command) -> None:
        begun.append(command.request_id)

    await _emit(bus, "newer", delay_s=0.1)
    await _emit(bus, "own", delay_s=0.2)
    await call(bus, "SETRANGE", "request:newer", 1, b"\x63")
    written = await call(bus, "GET", "request:newer")
    async with listening(bus, [work]):
        await eventually(lambda: begun == ["own"], within_s=10, why="ours has begun")
        with pytest.raises(UnknownLayout):
            await record_of(bus, "newer")
        assert await call(bus, "GET", "request:newer") == written
        assert await call(bus, "GET", f"{INDEX}:length") == b"1"
        await call(bus, "SETRANGE", "request:newer", 1, struct.pack("B", RECORD_LAYOUT))
        await eventually(lambda: begun == ["own", "newer"], within_s=10, why="we can read it now")


async def test_a_full_list_of_results_drops_no_request_that_waits(bus: Bus) -> None:
    """Its id is that of an old result that the list still has."""

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def work() -> None:
        return None

    await call(bus, "RPUSH", f"{STREAM}:kept", b"100 " + bus.key("request:r").encode())
    await call(bus, "SET", f"{STREAM}:kept:bytes", 100)
    await _emit(bus, "r", delay_s=3600)
    async with listening(bus, [work], retention=Retention(max_kept=1)):
        for number in range(3):
            await bus.request_and_reply(STREAM, "work:do", {}, 10, request_id=f"n{number}")
    assert (await record_of(bus, "r"))["status"] == "pending"
    assert await bus.cancel("r") == "cancelled"


async def test_one_that_waits_for_a_limit_is_small_too(bus: Bus) -> None:
    """A paused one, that came by plain XADD, keeps its fields."""
    seen = []

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def work(command: Command) -> None:
        seen.append(command)

    await pause(bus, STREAM)
    fields = {"request_id": "r", "event_type": "work:do", "payload": '{"n":1}', "v": "1"}
    fields |= {"correlation_id": "c", "reply_stream": "answers:to-us", "timestamp": "1700000000000"}
    async with listening(bus, [work]):
        await add_entry(bus, STREAM, fields)

        async def waits() -> bool:
            return bool((await record_of(bus, "r")).get("waits"))

        await eventually(waits, within_s=10, why="it waits")
        assert await call(bus, "TYPE", "request:r") == b"string"
        await resume(bus, STREAM)
        await eventually(lambda: seen, within_s=10, why="it has begun")
    (command,) = seen
    assert (command.payload, command.correlation_id, command.reply_stream) == (
        {"n": 1},
        "c",
        "answers:to-us",
    )


async def test_a_due_request_that_cannot_go_on_stays_in_the_index(bus: Bus) -> None:
    """Its stream is a key of another type for a while; then it begins."""
    begun = []

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def work(command: Command) -> None:
        begun.append(command.request_id)

    await _emit(bus, "r", delay_s=0.05)
    await call(bus, "SET", STREAM, "of another type")
    keys = [bus.key(name) for name in ("sweeper", STREAM, "remembered")]
    sweep: list[Any] = [function_name("sweep"), 3, *keys, "c", "g", 1000, 0, 1, 1, 1]

    async def cannot_go_on() -> bool:
        try:
            await bus.command("FCALL", *sweep)
        except ServerError as error:
            return "XADD" in str(error) or "WRONGTYPE" in str(error)
        return False

    async def is_due() -> bool:
        seconds, microseconds = map(int, await bus.command("TIME"))
        return seconds * 1000 + microseconds / 1000 > int((await record_of(bus, "r"))["due"])

    await eventually(is_due, within_s=5, why="it is due")
    assert await cannot_go_on()
    assert await call(bus, "GET", f"{INDEX}:length") == b"1"
    await call(bus, "DEL", STREAM)
    async with listening(bus, [work]):
        await eventually(lambda: begun == ["r"], within_s=20, why="it has begun")
