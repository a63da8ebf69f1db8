"""Invariant 6: whatever cannot be handled ends as one dead letter, and holds up nothing."""

import asyncio
from typing import Any

import pytest
import redis

from sagastream import (
    Bus,
    Command,
    HandlerLost,
    PlainProgress,
    Progress,
    RequestFailed,
    ServerUnavailable,
    ServerUnsuitable,
    UnknownLayout,
    multi_stage_reply,
)
from sagastream._functions.library import RECORD_LAYOUT
from sagastream._functions.requests import RequestFunctions
from sagastream.status import dead_letters, request_status, stream_status
from sagastream.testing import EmbeddedServer
from tests.listeners import listening
from tests.plain_client import add_entry
from tests.polling import eventually
from tests.records import alter_record

STREAM = "work:commands"
LEASE_S = 0.2
runs: list[int] = []


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command, _progress: Progress) -> dict[str, Any]:
    """Count the runs."""
    runs.append(command.attempt)
    return {"ok": True}


async def _emit_in_saga(bus: Bus) -> None:
    """Emit a command whose replies go to a named stream, and to that of its saga."""
    await bus.emit_command(
        STREAM,
        event_type="work:do",
        payload={},
        request_id="r",
        reply_stream="work:replies",
        saga_id="s",
    )


async def _one_dead_letter(bus: Bus, reason: str) -> None:
    letters = await eventually(
        lambda: dead_letters(bus, STREAM), within_s=15, why="there is a dead letter"
    )
    assert [reason in letter.reason for letter in letters] == [True], letters
    assert (await stream_status(bus, STREAM)).pending == 0
    # The listener handles the next request, and the letter stays one.
    reply = await bus.request_and_reply(STREAM, "work:do", {}, 5)
    assert reply["payload"] == {"ok": True}
    assert len(await dead_letters(bus, STREAM)) == 1


@pytest.mark.invariant(6)
@pytest.mark.parametrize("fields", [101, 4_100])
async def test_an_entry_of_too_many_fields_is_a_dead_letter(bus: Bus, fields: int) -> None:
    """It is past what the server's functions can hold; nothing of it is lost."""
    command = {"event_type": "work:do", "payload": "{}", "request_id": "big"}
    many = {f"field{number}": str(number) for number in range(fields)}
    async with listening(bus, [work], lease_s=LEASE_S):
        await add_entry(bus, STREAM, command | many)
        await _one_dead_letter(bus, "entry: has")
    (letter,) = await dead_letters(bus, STREAM)
    assert letter.fields["request_id"] == "big"
    assert f'"field{fields - 1}": "{fields - 1}"' in letter.fields["dead_more_fields"]


@pytest.mark.invariant(6)
@pytest.mark.parametrize("known", [True, False])
async def test_a_reply_stream_of_another_type_is_a_dead_letter(bus: Bus, known: bool) -> None:
    """Nobody can be told; the request ends all the same, emitted or added by a plain client."""
    runs.clear()
    if known:
        await _emit_in_saga(bus)
    else:
        fields = {"event_type": "work:do", "payload": "{}", "request_id": "r"}
        await add_entry(bus, STREAM, fields | {"reply_stream": "work:replies"})
    await bus.command("SET", bus.key("work:replies"), "not a stream", "EX", 60)
    async with listening(bus, [work], lease_s=LEASE_S, max_deliveries=3):
        await _one_dead_letter(bus, "WRONGTYPE")
    assert len(runs) == 1, "only the request after it was handled"
    if known:
        outcome = await bus.outcome("r")
        assert outcome is not None
        assert outcome["status"] == "failed"
        assert outcome["payload"]["error_type"] == "ServerError"
        told = await bus.read_entries({"saga:s:replies": "0-0"})
        assert [entry.fields["status"] for entry in told] == ["failed"]
        await bus.command("DEL", bus.key("request:r"))


@pytest.mark.invariant(6)
async def test_a_record_of_another_type_is_a_dead_letter(bus: Bus) -> None:
    """A key that is not ours has the name of the record."""
    await bus.command("SET", bus.key("request:r"), "mine", "EX", 60)
    async with listening(bus, [work], lease_s=LEASE_S, max_deliveries=2):
        await add_entry(bus, STREAM, {"event_type": "work:do", "payload": "{}", "request_id": "r"})
        await _one_dead_letter(bus, "WRONGTYPE")
    assert await bus.command("GETDEL", bus.key("request:r")) == b"mine"


@pytest.mark.invariant(6)
async def test_a_request_that_loses_handlers_ends_though_its_stream_is_broken(bus: Bus) -> None:
    """The dead letter is made, and the reply goes where it can."""
    await _emit_in_saga(bus)
    await alter_record(bus, "r", attempts=5, status="running", token="x")
    await bus.command("SET", bus.key("work:replies"), "not a stream", "EX", 60)
    async with listening(bus, [work], lease_s=LEASE_S, max_deliveries=5):
        await _one_dead_letter(bus, "HandlerLost")
    told = await bus.read_entries({"saga:s:replies": "0-0"})
    assert [entry.fields["status"] for entry in told] == ["failed"]
    await bus.command("DEL", bus.key("request:r"))


@pytest.mark.invariant(6)
async def test_a_request_that_is_always_given_back_ends(bus: Bus) -> None:
    """Hand-backs have their own limit, whatever the reason."""
    given_back: list[int] = []

    @multi_stage_reply(stream=STREAM, event_type="work:away")
    async def away(command: Command, _progress: Progress) -> None:
        given_back.append(command.attempt)
        raise ServerUnavailable("mine", "gone")

    async with listening(bus, [away, work], lease_s=LEASE_S, max_deliveries=2):
        with pytest.raises(HandlerLost, match="gave it back 8 times"):
            await bus.request_and_reply(STREAM, "work:away", {}, 20)
        await _one_dead_letter(bus, "HandlerLost")
    assert given_back == list(range(1, 9))


@pytest.mark.invariant(12)
async def test_a_record_of_a_newer_release_is_left_alone(bus: Bus) -> None:
    """Requesters hear it by name; a listener leaves it to one of the newer release for a while."""
    await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
    record = bus.key("request:r")
    await bus.command("HSET", record, "layout", "99")
    before = await bus.command("HGETALL", record)
    for call in (
        lambda: bus.outcome("r"),
        lambda: bus.cancel("r"),
        lambda: bus.request_and_reply(STREAM, "work:do", {}, 5, request_id="r"),
        lambda: bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r"),
        lambda: anext(bus.follow("r")),
    ):
        with pytest.raises(UnknownLayout, match="layout 99, and this release knows layouts up to"):
            await call()
    runs.clear()
    async with listening(bus, [work], lease_s=LEASE_S, max_deliveries=4):
        await asyncio.sleep(5 * LEASE_S)
        assert await bus.command("HGETALL", record) == before
        # A listener of the newer release takes it; the field stands for that release.
        await bus.command("HSET", record, "layout", RECORD_LAYOUT)
        await eventually(lambda: bus.outcome("r"), within_s=5, why="it is handled")
    assert runs == [1]


async def test_a_record_of_a_newer_release_costs_no_other_claim_its_lease(bus: Bus) -> None:
    """It cannot be given back here; the leases of running handlers are renewed all the same."""
    begun, go = asyncio.Event(), asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="work:slow")
    async def slow(_command: Command, _progress: Progress) -> None:
        begun.set()
        await go.wait()

    lease_s = 4 * LEASE_S  # the test reads how long it still runs
    async with listening(bus, [work, slow], lease_s=lease_s):
        request = bus.request_and_reply(STREAM, "work:slow", {}, 20, request_id="slow")
        reply = asyncio.create_task(request)
        await begun.wait()
        await bus.cancel("newer")  # a note: its record is there before its command
        await bus.command("HSET", bus.key("request:newer"), "layout", "99")
        await add_entry(
            bus, STREAM, {"event_type": "work:do", "payload": "{}", "request_id": "newer", "v": "1"}
        )
        for _ in range(8):
            await asyncio.sleep(lease_s / 4)
            status = await request_status(bus, "slow")
            assert status
            assert status.lease_s
            assert status.lease_s > 0
        go.set()
        await reply
    await bus.command("DEL", bus.key("request:newer"))


@pytest.mark.invariant(12)
async def test_an_entry_of_a_newer_release_is_left_to_it(bus: Bus) -> None:
    """It is given back, so that another listener may get it; in the end it is a dead letter."""
    entry = {"event_type": "work:do", "payload": "{}", "request_id": "r", "v": "2"}
    async with listening(bus, [work], lease_s=LEASE_S, max_deliveries=2):
        await add_entry(bus, STREAM, entry)
        await asyncio.sleep(LEASE_S)
        assert await dead_letters(bus, STREAM) == []
        await _one_dead_letter(bus, "v: schema version")


@pytest.mark.invariant(6)
async def test_a_dead_letter_needs_its_stream(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    """Where dead letters cannot be written the entry stays pending; the others are handled."""
    await bus.command("SET", bus.key(f"{STREAM}:dead"), "x", "EX", 60)
    async with listening(bus, [work], lease_s=LEASE_S):
        await add_entry(bus, STREAM, {"event_type": "work:do", "payload": "{"})
        for _ in range(3):
            await bus.request_and_reply(STREAM, "work:do", {}, 5)
        pending = await bus.command("XPENDING", bus.key(STREAM), "sagastream")
        assert pending["pending"] == 1
    assert "WRONGTYPE" in caplog.text
    await bus.command("DEL", bus.key(f"{STREAM}:dead"))


@pytest.mark.invariant(6)
async def test_a_fault_while_a_dead_letter_is_made_ends_no_listener(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry stays pending, and the next requests are handled."""
    tried = asyncio.Event()

    async def fail(*_args: Any) -> None:
        tried.set()
        raise ZeroDivisionError

    monkeypatch.setattr("sagastream._worker.dispatcher.reject", fail)
    async with listening(bus, [work], lease_s=LEASE_S):
        await add_entry(bus, STREAM, {"event_type": "work:do", "payload": "{"})
        await asyncio.wait_for(tried.wait(), 5)
        assert (await bus.request_and_reply(STREAM, "work:do", {}, 5))["status"] == "completed"
        assert (await stream_status(bus, STREAM)).pending == 1


@pytest.mark.invariant(6)
async def test_a_server_that_refuses_this_client_makes_no_dead_letter(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is good, and another listener, or this one later, can begin it."""
    begin = RequestFunctions.begin
    refused: list[str] = []

    def refuse(self: RequestFunctions, *args: Any, **options: Any) -> Any:
        if len(refused) < 4:
            refused.append(options["entry_id"])
            raise ServerUnsuitable("refuses this client")
        return begin(self, *args, **options)

    monkeypatch.setattr(RequestFunctions, "begin", refuse)
    async with listening(bus, [work], lease_s=LEASE_S, max_deliveries=1):
        assert (await bus.request_and_reply(STREAM, "work:do", {}, 10))["status"] == "completed"
    assert await dead_letters(bus, STREAM) == []
    assert len(set(refused)) == 1


@pytest.mark.invariant(12)
@pytest.mark.parametrize(
    "error",
    [
        ServerUnavailable("here", "gone"),
        redis.exceptions.ConnectionError("gone"),
        redis.exceptions.TimeoutError("gone"),
        ExceptionGroup("both", [ValueError(), ServerUnavailable("here", "gone")]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_handler_that_meets_an_outage_is_given_back(
    bus: Bus, error: Exception, kind: str
) -> None:
    """The request is not failed, so that no saga is undone: another claim completes it."""

    def fail_once(command: Command) -> dict[str, Any]:
        if command.attempt == 1:
            raise error
        return {"attempt": command.attempt}

    async def in_loop(command: Command, _progress: Progress) -> dict[str, Any]:
        return fail_once(command)

    def in_thread(command: Command, _progress: PlainProgress) -> dict[str, Any]:
        return fail_once(command)

    handler = multi_stage_reply(stream=STREAM, event_type="work:outage")(
        in_loop if kind == "async" else in_thread
    )
    async with listening(bus, [handler], lease_s=LEASE_S):
        reply = await bus.request_and_reply(STREAM, "work:outage", {}, 10)
    assert reply["payload"] == {"attempt": 2}


async def test_a_connection_error_without_an_outage_is_a_failure(bus: Bus) -> None:
    """Another service is away, and our server is not: the handler has failed."""

    @multi_stage_reply(stream=STREAM, event_type="work:call")
    async def call(_command: Command, _progress: Progress) -> None:
        raise ConnectionRefusedError("the bank is closed")

    async with listening(bus, [call]):
        with pytest.raises(RequestFailed) as failed:
            await bus.request_and_reply(STREAM, "work:call", {}, 5)
    assert failed.value.error_type == "ConnectionRefusedError"


@pytest.mark.blocking
@pytest.mark.invariant(12)
async def test_a_connection_error_in_an_outage_is_given_back(own_server: EmbeddedServer) -> None:
    """The handler's own client lost the same server."""
    begun = asyncio.Event()
    lost = asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="work:call")
    async def call(command: Command, _progress: Progress) -> dict[str, Any]:
        begun.set()
        if command.attempt == 1:
            await lost.wait()
            raise ConnectionResetError("peer")
        return {"attempt": command.attempt}

    with EmbeddedServer(aof=True, fsync="always") as server:
        async with Bus(server.url) as bus, listening(bus, [call], lease_s=0.5):
            reply = asyncio.create_task(bus.request_and_reply(STREAM, "work:call", {}, 20))
            await begun.wait()
            await asyncio.to_thread(server.restart)
            await bus.command("PING")
            lost.set()
            assert (await reply)["payload"] == {"attempt": 2}
