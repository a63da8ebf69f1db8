"""Stages for whoever comes later, limits, and what an operator needs at night."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    Overloaded,
    Progress,
    RequestFailed,
    ServerUnsuitable,
    multi_stage_reply,
)
from sagastream.cli.main import main
from sagastream.testing import EmbeddedServer, bundled_binary
from tests.listeners import listening
from tests.polling import eventually

STREAM = "work:commands"


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command, progress: Progress) -> dict[str, Any]:
    """Report three times, or not at all, and fail if asked to."""
    for step in () if command.payload.get("silent") else (1, 2, 3):
        await progress(step / 4, {"step": step})
    if command.payload.get("fail"):
        raise RuntimeError("as asked")
    return {"done": True}


async def _followed(bus: Bus, after: str | None = None) -> list[dict[str, Any]]:
    return [stage async for stage in bus.follow("r", after)]


def _ask(bus: Bus, **payload: Any) -> "asyncio.Task[dict[str, Any]]":
    return asyncio.create_task(
        bus.request_and_reply(STREAM, "work:do", payload, 20, request_id="r")
    )


async def test_who_comes_later_sees_every_stage(bus: Bus) -> None:
    """The whole story is kept with the request, and following it ends with it."""
    async with listening(bus, [work], progress_interval_s=0):
        await _ask(bus)
    stages = await _followed(bus)
    assert [stage["status"] for stage in stages] == [
        *("start", "progress", "progress", "progress", "completed")
    ]
    assert [s["payload"]["step"] for s in stages if s["status"] == "progress"] == [1, 2, 3]


async def test_who_comes_after_the_end_of_a_silent_request_sees_its_start_and_end(bus: Bus) -> None:
    """A request that told of no progress has no log; it is made for who follows, from the record."""
    async with listening(bus, [work]):
        reply = await _ask(bus, silent=True)
    log = bus.key("request:r:stages")
    assert not await bus.command("EXISTS", log)
    start, end = await _followed(bus)
    assert (start["status"], end["status"]) == ("start", "completed")
    assert (start["epoch"], start["correlation_id"]) == ("1", reply["correlation_id"])
    assert {name: end[name] for name in reply} == reply
    assert [stage["entry_id"] for stage in await _followed(bus)] == [
        *(start["entry_id"], end["entry_id"])
    ]


async def test_who_lost_the_thread_goes_on_behind_the_last_stage(bus: Bus) -> None:
    """No gap and no double after a reconnect."""
    async with listening(bus, [work], progress_interval_s=0):
        await _ask(bus)
    stages = await _followed(bus)
    assert await _followed(bus, stages[1]["entry_id"]) == stages[2:]


@pytest.mark.invariant(2)
async def test_who_comes_early_waits_for_the_command(bus: Bus) -> None:
    """Following may begin before anything is there; a failed end is an end."""
    following = asyncio.create_task(_followed(bus))
    await asyncio.sleep(0)
    async with listening(bus, [work]):
        with pytest.raises(RequestFailed):
            await _ask(bus, fail=True)
        stages = await asyncio.wait_for(following, 10)
    assert (stages[0]["status"], stages[-1]["status"]) == ("start", "failed")


@pytest.mark.invariant(7)
async def test_a_command_that_was_followed_before_it_came_does_not_expire(bus: Bus) -> None:
    """What was kept for the followers for a while becomes the record of a live request."""
    record = bus.key("request:r")
    following = asyncio.create_task(_followed(bus))

    async def is_followed() -> bool:
        return bool(await bus.command("PTTL", record) > 0)

    await eventually(is_followed, within_s=10, why="the follower made itself known")
    await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
    assert await bus.command("PTTL", record) == -1
    await bus.cancel("r")
    assert (await asyncio.wait_for(following, 10))[-1]["status"] == "cancelled"


@pytest.mark.parametrize("when_full", ["wait", "raise"])
async def test_one_request_more_than_may_wait(bus: Bus, when_full: Any) -> None:
    """It waits for a place, or is refused before anything is sent, as was chosen."""
    namespace = bus.namespace
    async with Bus(bus.url, namespace=namespace, max_in_flight=1, when_full=when_full) as small:
        first = _ask(small)
        await asyncio.sleep(0)
        second = asyncio.create_task(
            small.request_and_reply(STREAM, "work:do", {"second": 1}, 20, request_id="second")
        )
        if when_full == "raise":
            with pytest.raises(Overloaded, match="1 requests of this process"):
                await second
        async with listening(bus, [work]):
            await first
            if when_full == "wait":
                await second
    known = await bus.command("EXISTS", bus.key("request:second"))
    assert known == (1 if when_full == "wait" else 0)


async def test_waiting_for_a_place_ends_with_the_timeout(bus: Bus) -> None:
    """A full process does not hold its callers for ever."""
    namespace = bus.namespace
    async with Bus(bus.url, namespace=namespace, max_in_flight=1) as small:
        first = _ask(small)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await small.request_and_reply(STREAM, "work:do", {}, 0.1)
        first.cancel()
        await asyncio.wait([first])


@pytest.mark.blocking
@pytest.mark.invariant(7)
async def test_a_server_that_may_evict_is_refused(server_binary: str | None) -> None:
    """The error says what to run; afterwards it is good."""
    with EmbeddedServer(binary=server_binary) as server:
        async with Bus(server.url) as bus:
            call = bus.command
            await call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            with pytest.raises(ServerUnsuitable, match="CONFIG SET maxmemory-policy noeviction"):
                await bus.ping()
            await call("CONFIG", "SET", "maxmemory-policy", "noeviction")
            await bus.ping()


@pytest.mark.blocking
async def test_a_cluster_is_refused_without_a_namespace(
    server_binary: str | None, tmp_path: Path
) -> None:
    """The keys of a request would lie on several of its servers; with a namespace they do not."""
    program = tmp_path / "server"
    program.write_text(
        f'#!/bin/sh\nexec {server_binary or bundled_binary()} "$@" --cluster-enabled yes\n'
    )
    program.chmod(0o755)
    with EmbeddedServer(binary=str(program)) as server:
        async with Bus(server.url) as bus:
            with pytest.raises(ServerUnsuitable, match="give a namespace"):
                await bus.ping()
        async with Bus(server.url, namespace="mine") as bus:
            await bus.ping()


@pytest.mark.invariant(7)
async def test_finished_commands_are_trimmed_and_others_never(bus: Bus) -> None:
    """Behind the last ones, up to the oldest that somebody still needs."""
    functions, call, stream = (
        bus.session().streams,
        bus.command,
        bus.key(STREAM),
    )

    async def sweep() -> int:
        await functions.sweep(
            bus.key("sweeper:g"),
            stream,
            consumer="o",
            group="g",
            lease_ms=60_000,
            count=1,
            keep=1000,
        )
        return int(await call("XLEN", stream))

    await call("XGROUP", "CREATE", stream, "g", "0", "MKSTREAM")
    ids = [await call("XADD", stream, "*", "n", number) for number in range(3000)]
    assert await sweep() == 3000, "nothing was delivered yet"
    await call("XREADGROUP", "GROUP", "g", "c", "COUNT", 2900, "STREAMS", stream, ">")
    await call("XACK", stream, "g", *ids[500:2900])
    left = await sweep()
    assert await call("XRANGE", stream, ids[0], ids[0]), "pending"
    assert left == 3000
    await call("XACK", stream, "g", *ids[:500])
    assert 1000 <= await sweep() < 1200
    assert await call("XRANGE", stream, ids[2999], ids[2999]), "undelivered"


@pytest.mark.blocking
def test_dead_letters_are_listed_shown_and_sent_again(
    server: EmbeddedServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A retried command is a new request; the letter goes; asked twice, it is sent once."""

    def operate(*arguments: str) -> tuple[int, str]:
        options = ["--url", server.url, "--namespace", namespace, "dead", *arguments]
        code = main(options)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    async def prepare() -> str:
        async with Bus(server.url, namespace=namespace) as bus:
            letter = await bus.command(
                *("XADD", bus.key(f"{STREAM}:dead"), "*"),
                *("event_type", "work:do", "payload", '{"a":1}', "request_id", "r"),
                *("dead_reason", "HandlerLost: gone", "dead_entry_id", "1-1"),
            )
            return str(letter.decode())

    async def answer(request_id: str) -> dict[str, Any]:
        async with Bus(server.url, namespace=namespace) as bus, listening(bus, [work]):
            return await bus.request_and_reply(STREAM, "work:do", {"a": 1}, request_id=request_id)

    letter = asyncio.run(prepare())
    assert operate("list", STREAM) == (0, f"{letter}  work:do  HandlerLost: gone\n")
    listed = json.loads(operate("list", STREAM, "-o", "jsonl")[1])
    assert (listed["id"], listed["request_id"]) == (letter, "r")
    assert json.loads(operate("list", STREAM, "-o", "json")[1]) == [listed]
    assert json.loads(operate("show", STREAM, letter, "-o", "json")[1]) == listed
    code, shown = operate("show", STREAM, letter)
    assert (code, json.loads(shown)["payload"]) == (0, '{"a":1}')
    code, request_id = operate("retry", STREAM, letter)
    assert code == 0
    assert asyncio.run(answer(request_id.strip()))["status"] == "completed"
    code, error = operate("retry", STREAM, letter)
    assert (code, "no letter" in error) == (1, True)
