"""`sagastream.status`: the state of streams and requests, for operators and dashboards."""

import pytest

from sagastream import Bus, Command, InvalidMessage, Progress, ReplyTimeout, multi_stage_reply
from sagastream.status import dead_letters, request_status, stream_status
from tests.listeners import listening
from tests.plain_client import add_entry, deliver
from tests.polling import eventually

STREAM = "work:commands"


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(_command: Command, _progress: Progress) -> None:
    """Do nothing."""


async def test_a_stream_without_listener_has_no_group(bus: Bus) -> None:
    """Commands may be in it, but no group counts them."""
    await bus.emit_command(STREAM, event_type="work:do", payload={})
    status = await stream_status(bus, STREAM)
    assert not status.has_group
    assert (status.depth, status.pending, status.dead_letters) == (0, 0, 0)
    assert status.event_types == ()


async def test_the_depth_and_the_pending_commands_of_a_stream(bus: Bus) -> None:
    """One of three commands was read and has not ended, two were not read."""
    for _ in range(3):
        await bus.emit_command(STREAM, event_type="work:do", payload={})
    await deliver(bus, STREAM, count=1)
    status = await stream_status(bus, STREAM, timeout=5)
    assert status.has_group
    assert (status.depth, status.pending) == (2, 1)
    assert status.oldest_pending_s >= 0


async def test_a_live_listener_announces_its_event_types(bus: Bus) -> None:
    """The status lists them while it runs."""

    async def is_announced() -> bool:
        return (await stream_status(bus, STREAM)).event_types == ("work:do",)

    async with listening(bus, [work]):
        await eventually(is_announced, within_s=10, why="the listener announced its event type")


@pytest.mark.invariant(14)
async def test_an_announcement_that_is_no_text_hides_no_other(bus: Bus) -> None:
    """Neither in a stream's status, nor in what a timeout says."""
    key, until = bus.key(f"listeners:{STREAM}"), 4e12
    for member in (b"work:do\nlistener", b"\xff\xfe\nlistener", b"\xf3", b""):
        await bus.command("ZADD", key, until, member)
    assert "work:do" in (await stream_status(bus, STREAM)).event_types
    with pytest.raises(ReplyTimeout, match="not begun"):
        await bus.request_and_reply(STREAM, "work:do", {}, timeout=1.5)
    await bus.command("DEL", key)


async def test_the_status_of_a_request_before_and_after_its_claim(bus: Bus) -> None:
    """It is None, then pending, then completed by a consumer in epoch 1."""
    assert await request_status(bus, "r") is None
    await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
    pending = await request_status(bus, "r")
    assert pending is not None
    assert (pending.status, pending.stream, pending.event_type) == ("pending", STREAM, "work:do")
    assert (pending.consumer, pending.attempts, pending.lease_s) == ("", 0, None)
    async with listening(bus, [work]):
        await bus.request_and_reply(STREAM, "work:do", {}, 10, request_id="r")
    ended = await request_status(bus, "r")
    assert ended is not None
    assert (ended.status, ended.attempts) == ("completed", 1)
    assert (ended.stream, ended.consumer) == ("", ""), "an ended request keeps only its result"
    assert ended.lease_s is None


async def test_dead_letters_have_a_reason_and_the_fields_of_their_entry(bus: Bus) -> None:
    """Bytes that are not UTF-8 are replaced; with `newest` the newest come first."""
    for number in range(2):
        await add_entry(bus, f"{STREAM}:dead", {"n": number, "dead_reason": b"bad \xff"})
    oldest, newest = await dead_letters(bus, STREAM)
    assert (oldest.reason, oldest.fields) == ("bad \ufffd", {"n": "0"})
    assert await dead_letters(bus, STREAM, newest=1) == [newest]
    assert await dead_letters(bus, STREAM, letter_id=oldest.letter_id) == [oldest]
    with pytest.raises(InvalidMessage, match="letter_id"):
        await dead_letters(bus, STREAM, letter_id="x")
