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
from sagastream.status import dead_letters, request_status, stream_status
from tests.listeners import listening
from tests.plain_client import GROUP, add_entry, call
from tests.polling import eventually
from tests.records import record_of

STREAM = "echo:commands"


@multi_stage_reply(stream=STREAM, event_type="echo:say")
async def say(command: Command, progress: Progress) -> dict[str, Any]:
    """Reply with the payload of the command."""
    await progress(0.5, {"stage": "halfway"})
    return command.payload


@multi_stage_reply(stream=STREAM, event_type="echo:plain")
def plain(command: Command, progress: PlainProgress) -> dict[str, Any]:
    """Reply with the name of its thread."""
    progress(0.5, {"thread": threading.current_thread().name})
    return {"thread": threading.current_thread().name}


@multi_stage_reply(stream=STREAM, event_type="echo:fail")
async def fail(command: Command, _progress: Progress) -> None:
    """Fail with a message that cannot be encoded as UTF-8."""
    raise LookupError("no such thing \ud800")


@multi_stage_reply(stream=STREAM, event_type="echo:unserializable")
async def unserializable(_command: Command, _progress: Progress) -> Any:
    """Return a value that cannot be encoded as JSON."""
    return {"not": object()}


async def test_stages_arrive_in_order_and_the_result_is_returned(bus: Bus) -> None:
    """Start, progress and completed arrive once each, with the ids of their request."""
    stages: list[dict[str, Any]] = []
    async with listening(bus, [say]):
        reply = await bus.request_and_reply(
            STREAM, "echo:say", {"a": 1}, on_progress=stages.append, correlation_id="c", saga_id="s"
        )
    assert [stage["status"] for stage in stages] == ["start", "progress", "completed"]
    assert stages[1]["payload"] == {"fraction": 0.5, "stage": "halfway"}
    assert reply["payload"] == {"a": 1}
    assert {stage["request_id"] for stage in stages} == {reply["request_id"]}
    assert {(s["correlation_id"], s["saga_id"]) for s in stages} == {("c", "s")}
    assert len({s["epoch"] for s in stages}) == 1


async def test_an_async_on_progress_is_awaited(bus: Bus) -> None:
    """`on_progress` may be a coroutine function, such as one that writes to a socket."""
    seen: list[str] = []

    async def record(stage: dict[str, Any]) -> None:
        await asyncio.sleep(0)  # a coroutine that is not awaited would not come beyond this
        seen.append(stage["status"])

    async with listening(bus, [say]):
        await bus.request_and_reply(STREAM, "echo:say", {}, on_progress=record)
    assert seen == ["start", "progress", "completed"]


async def test_a_plain_handler_runs_in_a_thread(bus: Bus) -> None:
    """A function that is not a coroutine function runs in a thread for handlers."""
    async with listening(bus, [plain]):
        reply = await bus.request_and_reply(STREAM, "echo:plain", {})
    assert reply["payload"]["thread"].startswith("handler")


async def test_a_failure_is_raised_immediately_with_type_and_message(bus: Bus) -> None:
    """The requester gets the error of the handler long before its timeout."""
    async with listening(bus, [fail]):
        with pytest.raises(RequestFailed, match=r"no such thing") as caught:
            await asyncio.wait_for(bus.request_and_reply(STREAM, "echo:fail", {}, timeout=60), 10)
    assert caught.value.error_type == "LookupError"
    assert caught.value.reply["status"] == "failed"


async def test_an_invalid_result_is_a_failure(bus: Bus) -> None:
    """A result that cannot be encoded fails the request and names the field."""
    async with listening(bus, [unserializable]):
        with pytest.raises(RequestFailed, match=r"result\.not") as caught:
            await bus.request_and_reply(STREAM, "echo:unserializable", {})
    assert caught.value.error_type == "InvalidMessage"


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_requesters_with_one_id_share_one_run(bus: Bus) -> None:
    """Two requesters with one id, and a later one, get the reply of one run."""
    runs = []
    go = asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="echo:count")
    async def count(_command: Command, _progress: Progress) -> dict[str, Any]:
        runs.append(1)
        await go.wait()
        return {"runs": len(runs)}

    async with listening(bus, [count]), Bus(bus.url, namespace=bus.namespace) as other:

        def send(requester: Bus) -> "asyncio.Task[dict[str, Any]]":
            reply = requester.request_and_reply(STREAM, "echo:count", {}, request_id="r")
            return asyncio.create_task(reply)

        async def have_joined() -> bool:
            # Only the record shows who waits for a request: two inboxes here.
            record = await record_of(bus, "r")
            inboxes = record.get("reply_streams", "") + " " + record.get("end_streams", "")
            return len(inboxes.split()) == 2

        first, second = send(bus), send(other)
        await eventually(have_joined, within_s=10, why="both requesters wait for the request")
        go.set()
        replies = await asyncio.gather(first, second)
        late = await bus.request_and_reply(STREAM, "echo:count", {}, request_id="r")
    assert runs == [1]
    assert replies[0]["payload"] == replies[1]["payload"] == late["payload"] == {"runs": 1}


@pytest.mark.invariant(5)
async def test_a_listener_reads_no_more_than_its_free_slots(bus: Bus) -> None:
    """Commands that it cannot run now stay unread in the stream for other listeners."""
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
        assert (await stream_status(bus, STREAM)).pending == 2
        go.set()
        for _ in range(4):
            await asyncio.wait_for(busy.acquire(), 5)


async def test_one_slot_serves_many_streams(bus: Bus) -> None:
    """With fewer slots than streams the streams are read in turn, one command at a time."""
    running, most = 0, 0

    async def work(command: Command, _progress: Progress) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)  # lets another handler run, if there is one
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


async def test_a_command_is_forwarded_to_a_listener_with_its_handler(bus: Bus) -> None:
    """Two listeners with different handlers share one stream and one group."""
    async with listening(bus, [say]), listening(bus, [plain]):
        replies = await asyncio.gather(
            *(bus.request_and_reply(STREAM, "echo:say", {"n": n}) for n in range(20)),
            *(bus.request_and_reply(STREAM, "echo:plain", {}) for _ in range(20)),
        )
    assert len(replies) == 40
    assert [reply["payload"] for reply in replies[:20]] == [{"n": n} for n in range(20)]


async def test_a_command_without_handler_fails_and_names_the_known_types(bus: Bus) -> None:
    """The error comes immediately and lists the event types of live listeners."""
    async with listening(bus, [say, plain]):
        with pytest.raises(RequestFailed, match=r"echo:nothing.*echo:plain, echo:say") as caught:
            await bus.request_and_reply(STREAM, "echo:nothing", {}, timeout=60)
    assert caught.value.error_type == "UnknownEventType"


async def test_stop_finishes_running_handlers_and_reads_no_more(bus: Bus) -> None:
    """A command that comes after `stop` stays pending."""
    begun, go = asyncio.Event(), asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="echo:slow")
    async def slow(_command: Command, _progress: Progress) -> dict[str, Any]:
        begun.set()
        await go.wait()
        return {"done": True}

    async with listening(bus, [slow], concurrency=1) as listener:
        reply = asyncio.create_task(bus.request_and_reply(STREAM, "echo:slow", {}))
        await begun.wait()
        listener.stop()
        await bus.emit_command(STREAM, event_type="echo:slow", payload={}, request_id="later")
        go.set()
        assert (await reply)["payload"] == {"done": True}
    later = await request_status(bus, "later")
    assert later is not None
    assert later.status == "pending"


@pytest.mark.invariant(4)
async def test_a_shutdown_writes_no_terminal_stage(bus: Bus) -> None:
    """A command that does not finish in time stays pending for the next listener."""
    begun = asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="echo:forever")
    async def forever(_command: Command, _progress: Progress) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with listening(bus, [forever], drain_s=0.05):
        await bus.emit_command(STREAM, event_type="echo:forever", payload={}, request_id="r")
        await begun.wait()
    status = await request_status(bus, "r")
    assert status is not None
    assert status.status == "running"
    assert await bus.outcome("r") is None
    assert (await stream_status(bus, STREAM)).pending == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_type": "echo:say", "payload": "{"}, "payload"),
        ({"event_type": "echo:say", "payload": "{}", "v": "one"}, "v: schema version"),
        ({"event_type": "echo:say"}, "payload: is missing"),
        ({"surprise": "1"}, "surprise"),
        ({"event_type": b"\xff", "payload": "{}"}, "not UTF-8"),
    ],
)
@pytest.mark.invariant(6)
async def test_a_malformed_command_becomes_a_dead_letter(
    bus: Bus, fields: dict[str, Any], reason: str
) -> None:
    """Reply and dead letter have the reason, nothing stays pending, the listener continues."""
    async with listening(bus, [say]):
        await add_entry(bus, STREAM, fields | {"request_id": "bad", "reply_stream": "mine"})
        with pytest.raises(RequestFailed) as caught:
            await bus.read_replies("mine", "", "bad", 5)
        assert reason in caught.value.message
        assert (await bus.request_and_reply(STREAM, "echo:say", {}))["status"] == "completed"
    (letter,) = await dead_letters(bus, STREAM)
    assert reason in letter.reason
    assert (await stream_status(bus, STREAM)).pending == 0


@pytest.mark.invariant(1)
@pytest.mark.invariant(6)
async def test_a_plain_entry_with_a_known_id_and_another_payload_is_a_dead_letter(
    bus: Bus,
) -> None:
    """It does not change the outcome of the request with that id."""
    async with listening(bus, [say]):
        good = await bus.request_and_reply(STREAM, "echo:say", {"a": 1}, request_id="r")
        fields = {"event_type": "echo:say", "payload": '{"a":2}', "request_id": "r"}
        await add_entry(bus, STREAM, fields)
        await eventually(
            lambda: dead_letters(bus, STREAM), within_s=10, why="the entry is a dead letter"
        )
    assert await bus.outcome("r") == good


@pytest.mark.invariant(11)
async def test_an_expired_command_fails_without_running(bus: Bus) -> None:
    """The listener that reads it fails it when the server's clock is past the deadline."""
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
    await asyncio.sleep(0.01)  # longer than the deadline
    async with listening(bus, [late]):
        with pytest.raises(DeadlineExceeded, match="before it began"):
            await bus.read_replies("mine", "c", "r", 5)
    assert runs == []


@pytest.mark.invariant(3)
async def test_only_the_handler_of_a_request_writes_its_stages(bus: Bus) -> None:
    """`emit_event` writes stages of a request for its handler, and for no other caller."""

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
    assert len(await bus.last_entries("mine", 10)) == 1


@pytest.mark.invariant(12)
async def test_a_deleted_group_is_created_again(bus: Bus) -> None:
    """A listener whose stream was deleted handles the next command."""
    async with listening(bus, [say]):
        await bus.request_and_reply(STREAM, "echo:say", {})
        await call(bus, "DEL", STREAM)
        reply = await bus.request_and_reply(STREAM, "echo:say", {"again": True})
    assert reply["payload"] == {"again": True}


async def test_progress_out_of_bounds_is_refused(bus: Bus) -> None:
    """The error of an invalid fraction names the argument."""

    @multi_stage_reply(stream=STREAM, event_type="echo:far")
    async def far(_command: Command, progress: Progress) -> None:
        await progress(1.5)

    async with listening(bus, [far]):
        with pytest.raises(RequestFailed, match="fraction"):
            await bus.request_and_reply(STREAM, "echo:far", {})


def test_a_listener_needs_a_slot() -> None:
    """A listener with no slots would handle nothing."""
    with pytest.raises(ValueError, match="at least 1"):
        CommandListener(Bus("redis://127.0.0.1:1"), [say], concurrency=0)


def test_names_are_checked_when_declared() -> None:
    """An invalid name in a decorator is an error at import."""
    with pytest.raises(InvalidMessage, match="event_type"):
        multi_stage_reply(stream=STREAM, event_type="has space")


@pytest.mark.invariant(5)
async def test_a_listener_with_fewer_slots_than_streams_reads_no_more_than_it_has(
    bus: Bus,
) -> None:
    """With one slot and two streams one command is delivered; the others wait unread."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(_command: Command, _progress: Progress) -> None:
        begun.set()
        await go.wait()

    streams = ("one:commands", "two:commands")
    handlers = [multi_stage_reply(stream=name, event_type="x:do")(wait) for name in streams]
    for name in streams * 3:
        await bus.emit_command(name, event_type="x:do", payload={})
    async with listening(bus, handlers, concurrency=1):
        await asyncio.wait_for(begun.wait(), 10)
        pending = [await call(bus, "XPENDING", name, GROUP) for name in streams]
        assert sum(each["pending"] for each in pending) == 1
        go.set()
