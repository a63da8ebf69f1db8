import asyncio
import time
from typing import Any

import pytest

from app.redis_utils import (
    BlobMissing,
    emit_command,
    emit_event,
    get_blob,
    put_blob,
    read_replies,
    request_and_reply,
)
from sagastream import (
    BackoffConfig,
    Bus,
    Command,
    InvalidMessage,
    Progress,
    ReplyTimeout,
    RequestCancelled,
    RequestConflict,
    RequestFailed,
    multi_stage_reply,
)
from tests.listeners import listening
from tests.plain_client import call
from tests.polling import eventually


@multi_stage_reply(stream="echo:commands", event_type="echo:say")
async def say(command: Command, progress: Progress) -> dict[str, Any]:
    """Reply with the payload of the command."""
    await progress(0.5)
    return command.payload


async def _reply(stream: str, request_id: str, status: str, **payload: Any) -> None:
    """Write a stage of a request that has no record."""
    await emit_event(
        stream,
        event_type="echo:say",
        status=status,
        payload=payload,
        correlation_id="c",
        request_id=request_id,
    )


async def test_a_command_has_every_field_of_its_schema(app_bus: Bus) -> None:
    """Programs in other languages rely on these field names."""
    entry_id = await emit_command(
        "echo:commands",
        event_type="echo:say",
        payload={"a": 1},
        correlation_id="c",
        saga_id="s",
        request_id="r",
        reply_stream="mine",
        deadline_s=60,
    )
    (entry,) = await app_bus.last_entries("echo:commands", 10)
    fields = entry.fields
    assert entry.entry_id == entry_id
    assert int(fields["deadline"]) - int(fields["timestamp"]) == 60_000
    fixed = {
        "correlation_id": "c",
        "saga_id": "s",
        "request_id": "r",
        "reply_stream": "mine",
        "event_type": "echo:say",
        "payload": '{"a":1}',
        "v": "1",
    }
    assert fixed.items() <= fields.items()
    assert {"traceparent", "tracestate", "parent_span_id"} <= fields.keys()


@pytest.mark.invariant(2)
async def test_two_requesters_on_one_stream_each_get_their_own(app_bus: Bus) -> None:
    """With 200 concurrent requests each on one reply stream, each requester gets its own replies."""

    async def ask(who: str, number: int) -> tuple[str, dict[str, Any]]:
        request_id = f"{who}-{number}"
        await emit_command(
            "echo:commands",
            event_type="echo:say",
            payload={"who": request_id},
            correlation_id=who,
            request_id=request_id,
            reply_stream="shared:replies",
        )
        return request_id, await read_replies("shared:replies", who, request_id, 60)

    async with listening(app_bus, [say]):
        replies = await asyncio.gather(*(ask(w, n) for w in ("a", "b") for n in range(200)))
    assert len(replies) == 400
    for request_id, reply in replies:
        assert reply["payload"] == {"who": request_id}
        assert reply["request_id"] == request_id


async def test_a_late_reader_gets_what_was_written_before_it_came(app_bus: Bus) -> None:
    """The group starts at 0, so a late reader misses no entry."""
    await _reply("late:replies", "r", "start")
    await _reply("late:replies", "r", "completed", a=1)
    reply = await read_replies("late:replies", "c", "r", 5)
    assert reply["payload"] == {"a": 1}
    again = await read_replies("late:replies", "c", "r", 5)
    assert again == reply


async def test_a_reader_waits_through_start_and_progress(app_bus: Bus) -> None:
    """Only a terminal stage ends the wait; stages of other requests are ignored."""
    reading = asyncio.create_task(read_replies("my:replies", "c", "r", 10))
    await _reply("my:replies", "r", "start")
    await _reply("my:replies", "other", "completed", wrong=True)
    await _reply("my:replies", "r", "progress", fraction=0.5)
    await _reply("my:replies", "r", "completed", right=True)
    assert (await reading)["payload"] == {"right": True}


async def test_empty_reads_wait_with_backoff(app_bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty reads wait 0.1, 0.2, 0.4, 0.8, 1, 1 s: the wait is the BLOCK itself."""
    blocks: list[int] = []
    connection = app_bus.session().connection

    async def empty(*args: Any) -> list[Any]:
        blocks.append(args[args.index("BLOCK") + 1])
        clock.now += blocks[-1] / 1000
        return []

    class Clock:
        now = 0.0

    clock = Clock()
    monkeypatch.setattr(type(connection), "block", lambda _self, *args, **_options: empty(*args))
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda real=loop.time: real() + clock.now)
    with pytest.raises(ReplyTimeout, match="no stage seen"):
        await read_replies("empty:replies", "c", "r", 4.5)
    assert blocks[:6] == [100, 200, 400, 800, 1000, 1000]
    assert sum(blocks) == pytest.approx(4500, abs=100)


async def test_a_timeout_is_a_timeout_error_after_the_timeout(app_bus: Bus) -> None:
    """The error names request, timeout and last stage; no key is left behind."""
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        await read_replies("none:replies", "c", "r", 0.3)
    assert time.monotonic() - began >= 0.3
    assert isinstance(caught.value, ReplyTimeout)
    assert caught.value.request_id == "r"
    assert await call(app_bus, "EXISTS", "none:replies") == 0


async def test_a_timeout_names_the_last_stage(app_bus: Bus) -> None:
    """A request that has started times out with its last stage, not with `NoHandlers`."""
    await _reply("some:replies", "r", "start")
    with pytest.raises(ReplyTimeout, match="last stage seen: start"):
        await read_replies("some:replies", "c", "r", 0.2)


async def test_a_failed_reply_raises_at_once(app_bus: Bus) -> None:
    """A failure is raised before the timeout."""
    await _reply("f:replies", "r", "failed", error_type="Boom", message="broke", trace_id="t")
    with pytest.raises(RequestFailed, match="broke") as caught:
        await asyncio.wait_for(read_replies("f:replies", "c", "r", 60), 5)
    assert (caught.value.error_type, caught.value.trace_id) == ("Boom", "t")


async def test_a_cancelled_reply_is_its_own_error(app_bus: Bus) -> None:
    """A cancelled request raises its own error."""
    await _reply("x:replies", "r", "cancelled")
    with pytest.raises(RequestCancelled):
        await read_replies("x:replies", "c", "r", 5)


async def test_readers_leave_no_group_behind(app_bus: Bus) -> None:
    """A reader deletes its own group at the end."""
    await _reply("g:replies", "r", "completed")
    await read_replies("g:replies", "c", "r", 5)
    groups = await app_bus.command("XINFO", "GROUPS", app_bus.key("g:replies"))
    assert groups == []


async def test_groups_of_dead_readers_are_swept(app_bus: Bus) -> None:
    """The next reader deletes the group of a killed reader, and no group of a living one."""
    functions = app_bus.session().streams
    stream = app_bus.key("d:replies")
    for group in ("reader-dead", "someone-else"):
        await functions.join(stream, group=group, stale_ms=60_000, prefix="reader-")
    await asyncio.sleep(0.02)  # the dead reader is idle for longer than `stale_ms`
    await functions.join(stream, group="reader-new", stale_ms=10, prefix="reader-")
    groups = await app_bus.command("XINFO", "GROUPS", stream)
    assert {group["name"].decode() for group in groups} == {"reader-new", "someone-else"}


async def test_a_reader_survives_the_deletion_of_its_stream(app_bus: Bus) -> None:
    """On NOGROUP a reader creates its group again."""
    reading = asyncio.create_task(read_replies("gone:replies", "c", "r", 20))
    await eventually(
        lambda: call(app_bus, "EXISTS", "gone:replies"), within_s=10, why="the reader has a group"
    )
    await call(app_bus, "DEL", "gone:replies")
    await _reply("gone:replies", "r", "completed", back=True)
    assert (await reading)["payload"] == {"back": True}


async def test_the_same_id_with_another_payload_is_an_error(app_bus: Bus) -> None:
    """A request id cannot be reused with another payload."""
    ask = {"event_type": "echo:say", "correlation_id": "c", "request_id": "r"}
    await emit_command("echo:commands", payload={"a": 1}, **ask)
    with pytest.raises(RequestConflict, match="another payload"):
        await emit_command("echo:commands", payload={"a": 2}, **ask)
    with pytest.raises(RequestConflict):
        await request_and_reply("echo:commands", "echo:say", {"a": 2}, 5, request_id="r")


async def test_emitting_the_same_request_twice_is_one_entry(app_bus: Bus) -> None:
    """The second call returns the entry id of the first."""
    ask = {"event_type": "echo:say", "correlation_id": "c", "request_id": "r"}
    first = await emit_command("echo:commands", payload={}, **ask)
    assert await emit_command("echo:commands", payload={}, **ask) == first
    assert len(await app_bus.last_entries("echo:commands", 10)) == 1


async def test_maxlen_and_ttl_are_applied(app_bus: Bus) -> None:
    """MAXLEN ~ and EXPIRE apply when given, and only then."""
    for number in range(400):
        await emit_event(
            "events",
            event_type="e:e",
            status="info",
            payload={"n": number},
            correlation_id="c",
            maxlen=100,
            ttl=60,
        )
    assert 100 <= await call(app_bus, "XLEN", "events") < 400
    assert 0 < await call(app_bus, "PTTL", "events") <= 60_000
    await emit_command("echo:commands", event_type="echo:say", payload={})
    assert await call(app_bus, "PTTL", "echo:commands") == -1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"payload": {"a": float("nan")}}, "payload.a"),
        ({"payload": {"a": "x" * 70_000}}, "payload"),
        ({"event_type": ""}, "event_type"),
        ({"correlation_id": "a b"}, "correlation_id"),
        ({"request_id": "a{b"}, "request_id"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": float("inf")}, "deadline_s"),
        ({"maxlen": 0}, "maxlen"),
        ({"ttl": -1}, "ttl"),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(
    app_bus: Bus, change: dict[str, Any], field: str
) -> None:
    """The error names the argument, and nothing is written."""
    with pytest.raises(InvalidMessage) as caught:
        await emit_command("echo:commands", **({"event_type": "echo:say", "payload": {}} | change))
    assert caught.value.field == field
    assert await call(app_bus, "EXISTS", "echo:commands") == 0


async def test_a_request_without_listener_times_out(app_bus: Bus) -> None:
    """The wait ends; the command stays in the stream for a later listener."""
    with pytest.raises(ReplyTimeout):
        await request_and_reply("echo:commands", "echo:say", {}, 0.2, request_id="r")
    async with listening(app_bus, [say]):
        reply = await request_and_reply("echo:commands", "echo:say", {}, 10, request_id="r")
    assert reply["status"] == "completed"


def test_invalid_backoff_is_refused() -> None:
    """A BLOCK longer than the socket timeout is refused in the configuration."""
    with pytest.raises(ValueError, match="initial_delay"):
        BackoffConfig(initial_delay=2.0, max_delay=1.0)
    with pytest.raises(ValueError, match="max_delay"):
        BackoffConfig(max_delay=10.0)
    with pytest.raises(ValueError, match="factor"):
        BackoffConfig(factor=0.5)


async def test_blobs_are_stored_under_their_hash_and_expire(app_bus: Bus) -> None:
    """Equal blobs share one key, and every key expires."""
    reference = await put_blob(b"map" * 1000)
    assert await put_blob(b"map" * 1000) == reference
    assert await get_blob(reference) == b"map" * 1000
    assert await call(app_bus, "STRLEN", f"blob:{reference}") < 100
    assert await call(app_bus, "TTL", f"blob:{reference}") > 0
    with pytest.raises(BlobMissing, match="BLOB_TTL_S"):
        await get_blob("0" * 64)
