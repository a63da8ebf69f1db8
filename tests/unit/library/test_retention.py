"""What is left of an ended request: its result for a while, and its id for longer."""

import asyncio
import json
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    Progress,
    RequestConflict,
    RequestFailed,
    ResultExpired,
    Retention,
    StageRefused,
    multi_stage_reply,
)
from sagastream._functions.library import RECORD_LAYOUT
from sagastream.cli.main import main
from sagastream.memory import memory_status, purge
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer
from tests.listeners import listening
from tests.plain_client import add_entry, call
from tests.polling import eventually
from tests.records import record_of

STREAM = "work:commands"
SHORT = Retention(result_s=0.05, remember_s=3600)
runs: list[str] = []


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command, _progress: Progress) -> dict[str, Any]:
    """Fail if `fail`; otherwise return the payload."""
    runs.append(command.request_id)
    if command.payload.get("fail"):
        raise ValueError("as requested")
    return dict(command.payload)


@pytest.fixture(autouse=True)
def no_runs() -> None:
    """Each test counts the runs of its handlers."""
    runs.clear()


async def _ask(bus: Bus, request_id: str = "r", **payload: Any) -> dict[str, Any]:
    return await bus.request_and_reply(STREAM, "work:do", payload, 10, request_id=request_id)


async def _gone(bus: Bus, request_id: str = "r") -> None:
    """Wait until the result of a request is no longer kept."""

    async def has_gone() -> bool:
        return not await call(bus, "EXISTS", f"request:{request_id}")

    await eventually(has_gone, within_s=10, why="the result is no longer kept")


@pytest.mark.invariant(1)
@pytest.mark.parametrize("fails", [False, True])
async def test_who_asks_after_the_result_has_gone_hears_how_it_ended(bus: Bus, fails: bool) -> None:
    """By each call that asks for it; and nothing runs again."""
    payload: dict[str, Any] = {"fail": True} if fails else {}
    status = "failed" if fails else "completed"
    async with listening(bus, [work], retention=SHORT):
        if fails:
            with pytest.raises(RequestFailed):
                await _ask(bus, **payload)
        else:
            await _ask(bus)
        await _gone(bus)
        for ask in (
            lambda: _ask(bus, **payload),
            lambda: bus.outcome("r"),
            lambda: anext(bus.follow("r")),
            lambda: bus.emit_command(STREAM, event_type="work:do", payload=payload, request_id="r"),
        ):
            with pytest.raises(ResultExpired, match=f"ended as {status} at 20") as expired:
                await ask()
            assert (expired.value.request_id, expired.value.status) == ("r", status)
        assert await bus.cancel("r") == status
        with pytest.raises(RequestConflict):
            await _ask(bus, other=1)
        with pytest.raises(StageRefused):
            await bus.emit_event(
                *("replies:r",),
                event_type="work:do",
                status="completed",
                payload={},
                correlation_id="c",
                request_id="r",
            )
        # A client that is not this library adds the entry again.
        fields = {"event_type": "work:do", "payload": json.dumps(payload), "request_id": "r"}
        await add_entry(bus, STREAM, fields)
        await _ask(bus, "next")
    assert runs == ["r", "next"]
    assert (await bus.command("XPENDING", bus.key(STREAM), "sagastream"))["pending"] == 0


@pytest.mark.invariant(9)
async def test_a_request_whose_result_has_gone_can_be_superseded(bus: Bus) -> None:
    """There is nothing to wait for, and it does not count as cancelled before its emit."""
    async with listening(bus, [work], retention=SHORT):
        await _ask(bus)
        await _gone(bus)
        await bus.request_and_reply(STREAM, "work:do", {}, 10, supersedes=["r"])
        assert await bus.cancel("r") == "completed"


async def test_an_id_is_forgotten_when_its_time_is_over(bus: Bus) -> None:
    """A sweep drops the window; the id may then be used again."""
    retention = Retention(result_s=0.05, remember_s=3.0)

    async def runs_again() -> bool:
        try:
            await _ask(bus)
        except ResultExpired:
            return False
        return len(runs) == 2

    async with listening(bus, [work], retention=retention, lease_s=0.5):
        await _ask(bus)
        await _gone(bus)
        with pytest.raises(ResultExpired):
            await _ask(bus)
        await eventually(runs_again, within_s=20, why="the id was forgotten")


async def test_the_handlers_retention_comes_before_the_listeners(bus: Bus) -> None:
    """And that before the bus's."""

    @multi_stage_reply(stream=STREAM, event_type="work:own", retention=Retention(result_s=30))
    async def own(_command: Command, _progress: Progress) -> None:
        """Do nothing."""

    async def left_s(event_type: str, listeners: Retention | None) -> float:
        async with listening(bus, [work, own], retention=listeners):
            reply = await bus.request_and_reply(STREAM, event_type, {}, 10)
        return float(await call(bus, "PTTL", f"request:{reply['request_id']}")) / 1000

    assert 25 < await left_s("work:own", Retention(result_s=60)) <= 30
    assert 55 < await left_s("work:do", Retention(result_s=60)) <= 60
    assert 3500 < await left_s("work:do", None) <= 3600


@pytest.mark.parametrize("limit", [{"max_kept": 5}, {"max_kept_bytes": 5 * 1200}])
async def test_the_oldest_results_beyond_a_limit_are_dropped(
    bus: Bus, limit: dict[str, int]
) -> None:
    """The newest ones stay; the ids of the others are remembered."""
    async with listening(bus, [work], retention=Retention(**limit)):
        for number in range(20):
            await _ask(bus, f"r{number}", text="x" * 1000)
        kept = [number for number in range(20) if await record_of(bus, f"r{number}")]
        assert kept == list(range(15, 20))
        with pytest.raises(ResultExpired):
            await _ask(bus, "r0", text="x" * 1000)


async def test_results_that_expire_make_room_for_others(bus: Bus) -> None:
    """A result whose time is over does not count any more."""
    retention = Retention(result_s=0.2, remember_s=60, max_kept_bytes=10**6)
    async with listening(bus, [work], retention=retention, lease_s=0.5):
        await _ask(bus, text="x" * 1000)

        async def is_empty() -> bool:
            return not await call(bus, "LLEN", f"{STREAM}:kept")

        await eventually(is_empty, within_s=10, why="a sweep has dropped it from the list")
        assert int(await call(bus, "GET", f"{STREAM}:kept:bytes")) == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"result_s": 0}, "result_s"),
        ({"remember_s": float("inf")}, "remember_s"),
        ({"result_s": 20, "remember_s": 10}, "remember_s"),
        ({"max_kept": 0}, "max_kept"),
        ({"max_kept_bytes": -1}, "max_kept_bytes"),
    ],
)
def test_a_retention_that_makes_no_sense_is_refused(options: dict[str, Any], named: str) -> None:
    """The message names the argument."""
    with pytest.raises(ValueError, match=named):
        Retention(**options)


@pytest.mark.invariant(2)
async def test_a_stream_gets_the_terminal_reply_once_however_often_it_is_named(bus: Bus) -> None:
    """Also after the end, when the record no longer has the names of its reply streams."""
    async with listening(bus, [work]):
        for reply_stream in ("mine", "mine", "other"):
            await bus.emit_command(
                STREAM,
                event_type="work:do",
                payload={},
                request_id="r",
                correlation_id="c",
                saga_id="s",
                reply_stream=reply_stream,
            )
            await bus.read_replies(reply_stream, "c", "r", 10)
    for stream, stages in (
        *(("mine", ["start", "completed"]), ("other", ["completed"])),
        ("saga:s:replies", ["start", "completed"]),
    ):
        told = await bus.read_entries({stream: "0-0"})
        assert [entry.fields["status"] for entry in told] == stages, stream
    await call(bus, "DEL", "request:r")


@pytest.mark.blocking
@pytest.mark.invariant(2)
async def test_a_stream_whose_name_ends_another_name_gets_the_reply_too(
    own_server: EmbeddedServer,
) -> None:
    """Without a namespace, too, the record of an ended request tells these names apart."""
    names = ("the:mine", "mine", "mine:2")
    async with Bus(own_server.url) as bus, listening(bus, [work]):
        for name in names:
            await bus.emit_command(
                STREAM, event_type="work:do", payload={}, request_id="r", reply_stream=name
            )
            await eventually(lambda: bus.outcome("r"), within_s=10, why="it has ended")
        for name in names:
            told = await bus.read_entries({name: "0-0"})
            assert [entry.fields["status"] for entry in told][-1:] == ["completed"], name


async def test_an_inbox_is_trimmed_by_bytes_too(bus: Bus) -> None:
    """Large replies are deleted before there are many of them."""
    text = "x" * 60_000
    async with listening(bus, [work]):
        for number in range(40):
            await _ask(bus, f"r{number}", text=text)
        inbox = bus.session().inbox.key

        async def is_trimmed() -> bool:
            return bool(await bus.command("XLEN", inbox) < 30)

        await eventually(is_trimmed, within_s=10, why="what was read is deleted")


async def test_an_ended_request_is_small(bus: Bus) -> None:
    """Its record and its remembered id, by the server's own count."""

    async def bytes_of(key: str) -> int:
        return int(await bus.command("MEMORY", "USAGE", key, "SAMPLES", 0))

    async with listening(bus, [work]):
        await asyncio.gather(*(_ask(bus, f"{number:022}") for number in range(500)))
        await asyncio.gather(*(_ask(bus, f"{number:022}b", x="y" * 190) for number in range(10)))
    (window,) = await bus.command("ZRANGE", bus.key("remembered"), 0, -1)
    remembered = await bytes_of(window.decode()) / await bus.command("HLEN", window)
    namespace = len(bus.key(""))
    assert remembered <= 120
    assert await bytes_of(bus.key(f"request:{7:022}")) - namespace + remembered <= 350
    assert await bytes_of(bus.key(f"request:{7:022}b")) - namespace + remembered <= 650


_OLD = {
    "layout": "2",
    "stream": STREAM,
    "digest": "0" * 40,
    "epoch": "0",
    "reply_streams": "",
    "correlation_id": "c",
    "event_type": "work:do",
    "payload": "{}",
    "v": "1",
    "timestamp": "1700000000000",
}


async def _write_old(bus: Bus, request_id: str, **fields: str) -> None:
    """Write a record as the release before did."""
    entry = {"event_type": "work:do", "payload": "{}", "request_id": request_id, "v": "1"}
    entry_id = await add_entry(bus, STREAM, entry)
    record = _OLD | {"request_id": request_id, "entry_id": entry_id, "stream": bus.key(STREAM)}
    flat = [part for pair in (record | fields).items() for part in pair]
    await call(bus, "HSET", f"request:{request_id}", *flat)


_TO_LAYOUT_3 = """
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  local state = {cmsgpack.unpack(redis.call('HGET', KEYS[1], 'state'))}
  state[2] = state[22] or 0
  redis.call('HSET', KEYS[1], 'layout', '3', 'state', cmsgpack.pack(unpack(state, 1, 21)))
else
  local ended = {cmsgpack.unpack(redis.call('GET', KEYS[1]))}
  ended[2], ended[4] = 3, ended[20]
  redis.call('SET', KEYS[1], cmsgpack.pack(unpack(ended, 1, 19)), 'KEEPTTL')
end
"""


@pytest.mark.invariant(12)
async def test_records_without_a_number_of_attempts_are_read_and_go_on(bus: Bus) -> None:
    """In layout 3 the epoch was that number."""
    async with listening(bus, [work]):
        await _ask(bus, "ended")
    await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="pending")
    for request_id in ("ended", "pending"):
        await bus.command("EVAL", _TO_LAYOUT_3, 1, bus.key(f"request:{request_id}"))
    assert (await record_of(bus, "ended"))["attempts"] == "1"
    assert await call(bus, "HGET", "request:pending", "layout") == b"3", "reading changes nothing"
    await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="pending")
    layout = await call(bus, "HGET", "request:pending", "layout")
    assert layout == str(RECORD_LAYOUT).encode(), "the release before must not misread it"
    async with listening(bus, [work]):
        assert (await _ask(bus, "ended"))["epoch"] == "1"
        assert int((await _ask(bus, "pending"))["epoch"]) > 1_700_000_000_000
    assert (await record_of(bus, "pending"))["attempts"] == "1"
    assert runs == ["ended", "pending"]


@pytest.mark.invariant(12)
async def test_records_of_the_layout_before_are_read_and_go_on(bus: Bus) -> None:
    """A pending one is handled; one whose handler was lost is claimed again; an ended one is read."""
    await _write_old(bus, "pending", status="pending")
    lapsed = {"status": "running", "token": "t", "consumer": "gone", "lease_until": "1"}
    progress = {"epoch": "1", "began": "1", "seq": "1", "progress": '{"fraction":0.5}'}
    await _write_old(bus, "running", **lapsed, **progress)
    ended = {"status": "completed", "payload": '{"by":"old"}', "epoch": "1"}
    await _write_old(bus, "ended", **ended)
    await call(bus, "PEXPIRE", "request:ended", 60_000)
    outcome = await bus.outcome("ended")
    assert outcome is not None
    assert outcome["payload"] == {"by": "old"}
    assert (await record_of(bus, "running"))["seq"] == "1"
    assert await call(bus, "HEXISTS", "request:running", "digest"), "reading it changes nothing"
    async with listening(bus, [work]):
        await _ask(bus, "pending")
        await _ask(bus, "running")
        assert (await _ask(bus, "ended"))["payload"] == {"by": "old"}
        assert (await record_of(bus, "pending"))["attempts"] == "1"
        assert (await record_of(bus, "running"))["attempts"] == "2"
    assert sorted(runs) == ["pending", "running"]
    assert 0 < await call(bus, "PTTL", "request:ended") <= 60_000


@pytest.mark.blocking
def test_results_are_purged_by_the_command_line(
    own_server: EmbeddedServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only those of lone requests that ended long enough ago; ids stay remembered."""

    def run(*arguments: str) -> str:
        assert main(["--url", own_server.url, "--namespace", namespace, *arguments]) == 0
        return capsys.readouterr().out.strip()

    async def fill() -> str:
        async with Bus(own_server.url, namespace=namespace) as bus, listening(bus, [work]):
            for number in range(3):
                await _ask(bus, f"r{number}")
            saga = Saga("trip", (Step("only", STREAM, "work:do", lambda _given, _results: {}),))
            runner = SagaRunner(bus, saga)
            return (await runner.run(await runner.start({}))).entries[0].request_id

    async def kept(request_id: str) -> bool:
        async with Bus(own_server.url, namespace=namespace) as bus:
            try:
                return bool(await bus.outcome(request_id))
            except ResultExpired:
                return False

    of_saga = asyncio.run(fill())
    assert json.loads(run("memory", "-o", "json"))["holders"]["requests"] > 0
    assert "no limit" in run("memory")
    assert run("purge", "--older-than", "60").startswith("dropped 0 results")
    assert run("purge", "--dry-run").startswith("would drop 3 results")
    assert asyncio.run(kept("r0"))
    assert json.loads(run("purge", "-o", "json")) == {"results": 3, "payload_bytes": 6}
    assert not asyncio.run(kept("r0"))
    assert asyncio.run(kept(of_saga)), "it goes with its saga"
    with pytest.raises(SystemExit):
        run("purge", "--older-than", "soon")


@pytest.mark.blocking
async def test_what_holds_the_memory_is_named(own_server: EmbeddedServer) -> None:
    """The kinds of keys are told apart, and an open request is not purged."""
    async with Bus(own_server.url) as bus:
        await bus.emit_command(
            STREAM, event_type="work:do", payload={"x": "y" * 5000}, request_id="r"
        )
        await bus.cancel("other")
        await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="other")
        found = await memory_status(bus)
        holders = dict(found.holders)
        assert holders[STREAM] > 5000
        assert holders["requests"] > 5000
        assert holders["ids of ended requests"] > 100
        assert (found.share, found.is_full) == (0.0, False)
        await bus.command("SET", "request:else", "not ours")
        assert (await purge(bus)).results == 1
        assert (await record_of(bus, "r"))["status"] == "pending"


async def test_the_requests_of_an_ended_saga_do_not_run_again(bus: Bus) -> None:
    """The result of a step goes with the moves of its saga; the id is remembered."""
    saga = Saga("trip", (Step("only", STREAM, "work:do", lambda _given, _results: {"x": 1}),))
    runner = SagaRunner(bus, saga, keep_moves_s=0.05)
    async with listening(bus, [work]):
        saga_id = await runner.start({})
        outcome = await runner.run(saga_id)
        (entry,) = (await runner.journal(saga_id)).entries
        await _gone(bus, entry.request_id)
        with pytest.raises(ResultExpired):
            await _ask(bus, entry.request_id, x=1)
        with pytest.raises(RequestConflict):
            await _ask(bus, entry.request_id, x=2)
    assert outcome.results == {"only": {"x": 1}}
    assert runs == [entry.request_id]
