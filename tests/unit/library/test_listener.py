import asyncio
import threading
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    CommandListener,
    DeadlineExceeded,
    InvalidMessage,
    PlainProgress,
    Progress,
    RequestFailed,
    StageRefused,
    multi_stage_reply,
)
from tests.conftest import listening

STREAM = "echo:commands"


@multi_stage_reply(stream=STREAM, event_type="echo:say")
async def say(command: Command, progress: Progress) -> dict[str, Any]:
    """Answer with what was asked."""
    await progress(0.5, {"stage": "halfway"})
    return command.payload


@multi_stage_reply(stream=STREAM, event_type="echo:plain")
def plain(command: Command, progress: PlainProgress) -> dict[str, Any]:
    """Say which thread this is."""
    progress(0.5, {"thread": threading.current_thread().name})
    return {"thread": threading.current_thread().name}


@multi_stage_reply(stream=STREAM, event_type="echo:fail")
async def fail(command: Command, _progress: Progress) -> None:
    """Fail, with a message that is not even text."""
    raise LookupError("no such thing \ud800")


@multi_stage_reply(stream=STREAM, event_type="echo:nonsense")
async def nonsense(_command: Command, _progress: Progress) -> Any:
    """Return what is no JSON."""
    return {"not": object()}


async def test_stages_come_in_order_and_the_result_is_returned(bus: Bus) -> None:
    """Start, progress, completed: each once, each with the identity of its request."""
    stages: list[dict[str, Any]] = []
    async with listening(bus, [say]):
        reply = await bus.request_and_reply(
            STREAM, "echo:say", {"a": 1}, on_progress=stages.append, correlation_id="c", saga_id="s"
        )
    assert [stage["status"] for stage in stages] == ["start", "progress", "completed"]
    assert stages[1]["payload"] == {"fraction": 0.5, "stage": "halfway"}
    assert reply["payload"] == {"a": 1}
    assert {stage["request_id"] for stage in stages} == {reply["request_id"]}
    assert {(s["correlation_id"], s["saga_id"], s["epoch"]) for s in stages} == {("c", "s", "1")}


async def test_an_async_on_progress_is_awaited(bus: Bus) -> None:
    """Whoever writes to a socket in on_progress may await it."""
    seen: list[str] = []

    async def tell(stage: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        seen.append(stage["status"])

    async with listening(bus, [say]):
        await bus.request_and_reply(STREAM, "echo:say", {}, on_progress=tell)
    assert seen == ["start", "progress", "completed"]


async def test_a_plain_handler_runs_in_a_thread(bus: Bus) -> None:
    """A function that blocks does not block the loop."""
    async with listening(bus, [plain]):
        reply = await bus.request_and_reply(STREAM, "echo:plain", {})
    assert reply["payload"]["thread"].startswith("handler")


async def test_a_failure_is_raised_at_once_with_type_and_message(bus: Bus) -> None:
    """The requester learns what happened, not that time ran out."""
    async with listening(bus, [fail]):
        with pytest.raises(RequestFailed, match=r"no such thing") as caught:
            await asyncio.wait_for(bus.request_and_reply(STREAM, "echo:fail", {}, timeout=60), 10)
    assert caught.value.error_type == "LookupError"
    assert caught.value.reply["status"] == "failed"


async def test_a_result_that_is_no_payload_is_a_failure(bus: Bus) -> None:
    """The requester is answered whatever the handler returns."""
    async with listening(bus, [nonsense]):
        with pytest.raises(RequestFailed, match=r"result\.not") as caught:
            await bus.request_and_reply(STREAM, "echo:nonsense", {})
    assert caught.value.error_type == "InvalidMessage"


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_the_same_request_runs_once_and_answers_both(bus: Bus) -> None:
    """Two requesters with one id share one run and its reply."""
    runs = []
    go = asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="echo:count")
    async def count(_command: Command, _progress: Progress) -> dict[str, Any]:
        runs.append(1)
        await go.wait()
        return {"runs": len(runs)}

    async with listening(bus, [count]), Bus(bus.url, namespace=bus.namespace) as other:

        def ask(asker: Bus) -> "asyncio.Task[dict[str, Any]]":
            asked = asker.request_and_reply(STREAM, "echo:count", {}, request_id="r")
            return asyncio.create_task(asked)

        first, second = ask(bus), ask(other)
        while len(await bus_call(bus, "HGET", "request:r", "end_streams")) < 80:
            await asyncio.sleep(0.01)
        go.set()
        replies = await asyncio.gather(first, second)
        late = await bus.request_and_reply(STREAM, "echo:count", {}, request_id="r")
    assert runs == [1]
    assert replies[0]["payload"] == replies[1]["payload"] == late["payload"] == {"runs": 1}


async def bus_call(bus: Bus, command: str, name: str, *args: Any) -> Any:
    """Send a command about one key of the test's namespace."""
    return await bus.command(command, bus.key(name), *args) or b""


@pytest.mark.invariant(5)
async def test_never_more_than_its_free_slots(bus: Bus) -> None:
    """What it cannot run now stays in the stream, for whoever can."""
    busy, go = asyncio.Semaphore(0), asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="echo:wait")
    async def wait(_command: Command, _progress: Progress) -> None:
        busy.release()
        await go.wait()

    for _ in range(6):
        await bus.emit_command(STREAM, event_type="echo:wait", payload={})
    async with listening(bus, [wait], concurrency=2):
        await busy.acquire()
        await busy.acquire()
        pending = await bus_call(bus, "XPENDING", STREAM, "sagastream")
        assert pending["pending"] == 2
        go.set()
        for _ in range(4):
            await asyncio.wait_for(busy.acquire(), 5)


async def test_one_slot_serves_many_streams(bus: Bus) -> None:
    """With fewer slots than streams, they are read in turn, and still never too many."""
    running, most = 0, 0

    async def work(command: Command, _progress: Progress) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return {"stream": command.stream}

    names = [f"s{number}:commands" for number in range(4)]
    handlers = [multi_stage_reply(stream=name, event_type="s:do")(work) for name in names]
    async with listening(bus, handlers, concurrency=1):
        replies = await asyncio.gather(
            *(bus.request_and_reply(name, "s:do", {}) for name in names for _ in range(3))
        )
    assert most == 1
    assert sorted(reply["payload"]["stream"] for reply in replies) == sorted(names * 3)


async def test_a_command_is_left_for_a_listener_that_can(bus: Bus) -> None:
    """Two kinds of listener share one stream and one group."""
    async with listening(bus, [say]), listening(bus, [plain]):
        replies = await asyncio.gather(
            *(bus.request_and_reply(STREAM, "echo:say", {"n": n}) for n in range(20)),
            *(bus.request_and_reply(STREAM, "echo:plain", {}) for _ in range(20)),
        )
    assert len(replies) == 40
    assert [reply["payload"] for reply in replies[:20]] == [{"n": n} for n in range(20)]


async def test_a_command_that_nobody_handles_fails_and_names_what_there_is(bus: Bus) -> None:
    """The requester learns at once, with the types that a live listener has."""
    async with listening(bus, [say, plain]):
        with pytest.raises(RequestFailed, match=r"echo:nothing.*echo:plain, echo:say") as caught:
            await bus.request_and_reply(STREAM, "echo:nothing", {}, timeout=60)
    assert caught.value.error_type == "UnknownEventType"


async def test_stop_finishes_what_runs_and_reads_nothing_more(bus: Bus) -> None:
    """A drained listener leaves later commands untouched."""
    begun, go = asyncio.Event(), asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="echo:slow")
    async def slow(_command: Command, _progress: Progress) -> dict[str, Any]:
        begun.set()
        await go.wait()
        return {"done": True}

    async with listening(bus, [slow], concurrency=1) as listener:
        asked = asyncio.create_task(bus.request_and_reply(STREAM, "echo:slow", {}))
        await begun.wait()
        listener.stop()
        await bus.emit_command(STREAM, event_type="echo:slow", payload={}, request_id="later")
        go.set()
        assert (await asked)["payload"] == {"done": True}
    assert await bus_call(bus, "HGET", "request:later", "status") == b"pending"


@pytest.mark.invariant(4)
async def test_a_shutdown_writes_no_terminal_stage(bus: Bus) -> None:
    """What did not finish in time stays pending for the next, unanswered."""
    begun = asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="echo:forever")
    async def forever(_command: Command, _progress: Progress) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with listening(bus, [forever], drain_s=0.05):
        await bus.emit_command(STREAM, event_type="echo:forever", payload={}, request_id="r")
        await begun.wait()
    assert await bus_call(bus, "HGET", "request:r", "status") == b"running"
    assert await bus.outcome("r") is None
    assert (await bus_call(bus, "XPENDING", STREAM, "sagastream"))["pending"] == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_type": "echo:say", "payload": "{"}, "payload"),
        ({"event_type": "echo:say", "payload": "{}", "v": "7"}, "v: schema version"),
        ({"event_type": "echo:say"}, "payload: is missing"),
        ({"surprise": "1"}, "surprise"),
        ({"event_type": b"\xff", "payload": "{}"}, "not UTF-8"),
    ],
)
@pytest.mark.invariant(6)
async def test_an_entry_that_is_no_command_becomes_a_dead_letter(
    bus: Bus, fields: dict[str, Any], reason: str
) -> None:
    """It is told why, nothing stays pending, and the listener lives on."""
    flat = [part for pair in fields.items() for part in pair]
    async with listening(bus, [say]):
        await bus_call(bus, "XADD", STREAM, "*", *flat, "request_id", "bad", "reply_stream", "mine")
        with pytest.raises(RequestFailed) as caught:
            await bus.read_replies("mine", "", "bad", 5)
        assert reason in caught.value.message
        assert (await bus.request_and_reply(STREAM, "echo:say", {}))["status"] == "completed"
    letters = await bus_call(bus, "XRANGE", f"{STREAM}:dead", "-", "+")
    assert reason in letters[0][1][b"dead_reason"].decode()
    assert (await bus_call(bus, "XPENDING", STREAM, "sagastream"))["pending"] == 0


@pytest.mark.invariant(1)
@pytest.mark.invariant(6)
async def test_a_forged_payload_under_a_known_id_is_a_dead_letter(bus: Bus) -> None:
    """A plain entry cannot change what a request is, and its requester is not misled."""
    async with listening(bus, [say]):
        good = await bus.request_and_reply(STREAM, "echo:say", {"a": 1}, request_id="r")
        await bus_call(
            bus,
            *("XADD", STREAM, "*", "event_type", "echo:say"),
            *("payload", '{"a":2}', "request_id", "r"),
        )
        while not await bus_call(bus, "XLEN", f"{STREAM}:dead"):
            await asyncio.sleep(0.01)
    assert await bus.outcome("r") == good


@pytest.mark.invariant(11)
async def test_an_expired_command_fails_without_running(bus: Bus) -> None:
    """Whoever meets it says so, by the server's clock."""
    runs: list[str] = []

    @multi_stage_reply(stream=STREAM, event_type="echo:late")
    async def late(command: Command, _progress: Progress) -> None:
        runs.append(command.request_id)

    await bus.emit_command(
        STREAM,
        event_type="echo:late",
        payload={},
        request_id="r",
        correlation_id="c",
        reply_stream="mine",
        deadline_s=0.001,
    )
    await asyncio.sleep(0.01)
    async with listening(bus, [late]):
        with pytest.raises(DeadlineExceeded, match="before it began"):
            await bus.read_replies("mine", "c", "r", 5)
    assert runs == []


@pytest.mark.invariant(3)
async def test_only_the_holder_writes_stages(bus: Bus) -> None:
    """A stranger can neither end nor advance a request; its handler may report progress."""

    @multi_stage_reply(stream=STREAM, event_type="echo:event")
    async def event(command: Command, _progress: Progress) -> None:
        await bus.emit_event(
            "mine",
            event_type="echo:event",
            status="progress",
            payload={"by": "handler"},
            ttl=60,
            correlation_id=command.correlation_id,
            request_id=command.request_id,
        )

    async with listening(bus, [event]):
        await bus.request_and_reply(STREAM, "echo:event", {}, request_id="r")
    for status in ("start", "progress", "completed"):
        with pytest.raises(StageRefused):
            await bus.emit_event(
                "mine",
                event_type="echo:event",
                status=status,
                payload={},
                correlation_id="c",
                request_id="r",
            )
    assert await bus_call(bus, "XLEN", "mine") == 1


@pytest.mark.invariant(12)
async def test_a_group_that_was_destroyed_is_made_again(bus: Bus) -> None:
    """The stream deleted under a listener costs a moment, not the listener."""
    async with listening(bus, [say]):
        await bus.request_and_reply(STREAM, "echo:say", {})
        await bus_call(bus, "DEL", STREAM)
        reply = await bus.request_and_reply(STREAM, "echo:say", {"again": True})
    assert reply["payload"] == {"again": True}


async def test_progress_out_of_bounds_is_refused(bus: Bus) -> None:
    """A handler that reports nonsense is told which argument."""

    @multi_stage_reply(stream=STREAM, event_type="echo:far")
    async def far(_command: Command, progress: Progress) -> None:
        await progress(1.5)

    async with listening(bus, [far]):
        with pytest.raises(RequestFailed, match="fraction"):
            await bus.request_and_reply(STREAM, "echo:far", {})


def test_a_listener_needs_a_slot() -> None:
    """No slots would be a listener that never works."""
    with pytest.raises(ValueError, match="at least 1"):
        CommandListener(Bus("redis://127.0.0.1:1"), [say], concurrency=0)


def test_names_are_checked_when_declared() -> None:
    """A typo in a decorator shows at import."""
    with pytest.raises(InvalidMessage, match="event_type"):
        multi_stage_reply(stream=STREAM, event_type="has space")
