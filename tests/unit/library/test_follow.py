"""`Bus.follow`: all stages of a request, for any process at any time."""

import asyncio
from typing import Any

import pytest

from sagastream import Bus, Command, Progress, RequestFailed, multi_stage_reply
from tests.listeners import listening
from tests.plain_client import call
from tests.polling import eventually
from tests.records import record_of

STREAM = "work:commands"


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command, progress: Progress) -> dict[str, Any]:
    """Report progress three times unless `quiet`, then fail if `fail`."""
    for step in () if command.payload.get("quiet") else (1, 2, 3):
        await progress(step / 4, {"step": step})
    if command.payload.get("fail"):
        raise RuntimeError("as requested")
    return {"done": True}


async def _follow(bus: Bus, after: str | None = None) -> list[dict[str, Any]]:
    return [stage async for stage in bus.follow("r", after)]


async def _wait_for_follower(bus: Bus) -> None:
    async def has_record() -> bool:
        return bool(await call(bus, "PTTL", "request:r") > 0)

    await eventually(has_record, within_s=10, why="the record lists the follower, for a while")


async def _request(bus: Bus, **payload: Any) -> dict[str, Any]:
    return await bus.request_and_reply(STREAM, "work:do", payload, 20, request_id="r")


async def test_a_late_follower_gets_each_stage(bus: Bus) -> None:
    """From the first follower on the server keeps all stages, also for those who follow later."""
    following = asyncio.create_task(_follow(bus))
    await _wait_for_follower(bus)
    async with listening(bus, [work], progress_interval_s=0):
        await _request(bus)
    stages = await _follow(bus)
    assert [stage["status"] for stage in stages] == [
        *("start", "progress", "progress", "progress", "completed")
    ]
    assert [s["payload"]["step"] for s in stages if s["status"] == "progress"] == [1, 2, 3]
    assert await asyncio.wait_for(following, 10) == stages


async def test_a_request_that_nobody_follows_has_no_log(bus: Bus) -> None:
    """Its record has the last progress; a follower gets that, and each stage after it."""
    go = asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def slow(_command: Command, progress: Progress) -> dict[str, Any]:
        for step in (1, 2):
            await progress(step / 4, {"step": step})
        await go.wait()
        await progress(0.75, {"step": 3})
        return {}

    async with listening(bus, [slow], progress_interval_s=0):
        asked = asyncio.create_task(_request(bus))
        await eventually(
            lambda: _has_progress(bus, 2), within_s=10, why="both stages are in the record"
        )
        assert not await call(bus, "EXISTS", "request:r:stages")
        following = asyncio.create_task(_follow(bus))
        await eventually(
            lambda: call(bus, "EXISTS", "request:r:stages"), within_s=10, why="it is followed"
        )
        go.set()
        await asked
        stages = await asyncio.wait_for(following, 10)
    assert [(s["status"], s["payload"].get("step")) for s in stages] == [
        *(("start", None), ("progress", 2), ("progress", 3), ("completed", None))
    ]


async def _has_progress(bus: Bus, seq: int) -> bool:
    return (await record_of(bus, "r")).get("seq") == str(seq)


async def test_a_late_follower_of_a_request_without_progress_gets_start_and_end(bus: Bus) -> None:
    """A request without progress has no log of stages; following makes it from the record."""
    async with listening(bus, [work]):
        reply = await _request(bus, quiet=True)
    assert not await call(bus, "EXISTS", "request:r:stages")
    start, end = await _follow(bus)
    assert (start["status"], end["status"]) == ("start", "completed")
    assert start["epoch"] == reply["epoch"]
    assert start["correlation_id"] == reply["correlation_id"]
    assert {name: end[name] for name in reply} == reply
    assert [stage["entry_id"] for stage in await _follow(bus)] == [
        *(start["entry_id"], end["entry_id"])
    ]


async def test_a_follower_continues_after_its_last_stage(bus: Bus) -> None:
    """After a reconnect no stage is missing and none is repeated."""
    following = asyncio.create_task(_follow(bus))
    await _wait_for_follower(bus)
    async with listening(bus, [work], progress_interval_s=0):
        await _request(bus)
    stages = await _follow(bus)
    assert await _follow(bus, stages[1]["entry_id"]) == stages[2:]
    await asyncio.wait_for(following, 10)


@pytest.mark.invariant(2)
async def test_an_early_follower_waits_for_the_command(bus: Bus) -> None:
    """Following may begin before the command is sent; it also ends with a failure."""
    following = asyncio.create_task(_follow(bus))
    await _wait_for_follower(bus)
    async with listening(bus, [work]):
        with pytest.raises(RequestFailed):
            await _request(bus, fail=True)
        stages = await asyncio.wait_for(following, 10)
    assert (stages[0]["status"], stages[-1]["status"]) == ("start", "failed")


@pytest.mark.invariant(7)
async def test_a_command_that_was_followed_before_it_was_sent_does_not_expire(bus: Bus) -> None:
    """A record made for a follower has a TTL, which the command removes."""
    following = asyncio.create_task(_follow(bus))
    await _wait_for_follower(bus)
    await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
    assert await call(bus, "PTTL", "request:r") == -1
    await bus.cancel("r")
    assert (await asyncio.wait_for(following, 10))[-1]["status"] == "cancelled"
