"""The page of `sagastream serve`: every address and action, on a real server."""

import asyncio
import html
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from sagastream import Bus, Command, Progress, RetryPolicy, multi_stage_reply
from sagastream.cli.main import main
from sagastream.errors import InvalidMessage
from sagastream.flow_control import pauses, queues
from sagastream.inspection import RequestDetails, find_requests, read_request
from sagastream.saga import Compensation, Saga, SagaRunner, Step, WaitFor
from sagastream.saga.administration import find_sagas
from sagastream.schedules import Schedule, find_schedules, set_schedule
from sagastream.status import dead_letters
from sagastream.testing import EmbeddedServer
from sagastream.web.application import make_page
from sagastream.web.forwarded import ForwardedMiddleware
from sagastream.web.request_history import RequestStage, attempts_of
from sagastream.web.serving_page import read_token
from tests.listeners import listening
from tests.plain_client import add_entry
from tests.polling import eventually

STREAM, SLOW = "shop:commands", "slow:commands"
LETTER = "1764000000000-0"
TOKEN = "2Yb1kq8sTn0vRz5wXc3dLm7p"  # noqa: S105 - of these tests
HOSTILE = "<script>alert(1)</script>\"'&\u202egnp.exe"


@multi_stage_reply(stream=STREAM, event_type="shop:order")
async def order(command: Command, progress: Progress) -> dict[str, Any]:
    """Pack an order; fail if it has no count."""
    await progress(0.5, {"note": "halfway"})
    return {"packed": command.payload["count"]}


@multi_stage_reply(stream=STREAM, event_type="shop:undo")
async def undo(_command: Command, _progress: Progress) -> None:
    """Fail."""
    raise OSError("the printer is off")


@multi_stage_reply(
    stream=STREAM,
    event_type="shop:flaky",
    retry=RetryPolicy(attempts=3, first_delay_s=3600.0, max_delay_s=3600.0, jitter=0.0),
)
async def flaky(_command: Command, _progress: Progress) -> None:
    """Fail; the next attempt is far away."""
    raise OSError("the card reader is off")


@multi_stage_reply(stream=STREAM, event_type="shop:wait")
async def wait(_command: Command, progress: Progress) -> None:
    """Wait for a cancel."""
    await progress(0.25)
    await asyncio.Event().wait()


UNDO = Compensation("shop:undo", lambda _given, _results: {})
TRIP = Saga("trip", (Step("pack", STREAM, "shop:order", lambda given, _results: given, UNDO),))
WAIT = Saga("wait", (Step("wait", SLOW, "slow:wait", lambda given, _results: given),))

HOURLY = Schedule(
    name="hourly", every_s=3600, stream=STREAM, event_type="shop:order", payload={"count": 2}
)
OLD = replace(HOURLY, name="old", ends=datetime(2020, 1, 1, tzinfo=UTC))
NIGHTLY = Schedule(name="nightly", every_s=3600, stream=SLOW, event_type="slow:wait")


@dataclass
class Shown:
    """The page in a client that keeps cookies."""

    bus: Bus
    client: httpx.AsyncClient

    async def get(self, path: str, code: int = 200, /, **query: str) -> str:
        """The text of a page, with entities decoded."""
        answer = await self.client.get(path, params=query or None)
        assert answer.status_code == code, answer.text
        return html.unescape(answer.text)

    async def do(self, path: str, **given: str) -> httpx.Response:
        """Confirm an action."""
        asking = await self.client.get(path, params=given)
        assert asking.status_code == 200, asking.text
        fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', asking.text))
        form = {name: html.unescape(value) for name, value in fields.items()}
        return await self.client.post(path, data=form | given)


def client_of(bus: Bus, **options: Any) -> httpx.AsyncClient:
    """A client of a page."""
    transport = httpx.ASGITransport(make_page(bus, **options), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8400")


@pytest.fixture
async def shown(server: EmbeddedServer, namespace: str) -> AsyncIterator[Shown]:
    """A server with requests, sagas and a dead letter, and a listener."""
    async with (
        Bus(server.url, namespace=namespace) as bus,
        listening(bus, [order, undo, flaky, wait]),
        client_of(bus, hosts=("127.0.0.1",)) as client,
    ):
        ask = bus.emit_command
        await ask(STREAM, event_type="shop:order", payload={}, request_id="order-7")
        await ask(STREAM, event_type="shop:order", payload={"count": 1}, request_id="order-8")
        await ask(SLOW, event_type="slow:wait", payload={}, request_id="order-9")
        for request_id in ("order-7", "order-8"):
            await eventually(
                lambda request_id=request_id: bus.outcome(request_id),  # type: ignore[misc]
                within_s=5,
                why="it has ended",
            )
        letter = {"event_type": "shop:order", "payload": '{"count":1}', "request_id": "order-5"}
        reason = {"dead_reason": "HandlerLost: gone", "dead_entry_id": "1-1"}
        await add_entry(bus, f"{STREAM}:dead", letter | reason, entry_id=LETTER)
        yield Shown(bus, client)


async def _stuck(bus: Bus) -> None:
    runner = SagaRunner(bus, TRIP, max_attempts=1)
    await runner.run(await runner.start({}, saga_id="trip-1"))


async def _running(bus: Bus) -> None:
    runner = SagaRunner(bus, WAIT)
    await runner.start({"note": "hello"}, saga_id="trip-2")
    driving = asyncio.create_task(runner.run("trip-2"))

    async def has_intent() -> bool:
        return bool((await runner.journal("trip-2")).entries)

    await eventually(has_intent, within_s=5, why="its step has been sent")
    driving.cancel()
    await asyncio.wait({driving})


async def _status(bus: Bus, request_id: str) -> RequestDetails:
    found = await read_request(bus, request_id)
    assert found is not None
    return found


async def test_the_overview_has_streams_listeners_and_sagas(shown: Shown) -> None:
    """Depth, pending, oldest, listeners and dead letters of each stream; counts of sagas."""
    await _stuck(shown.bus)
    text = await shown.get("/")
    assert "1 live listener<" in text
    rows = dict(re.findall(r"<code>(\S+)</code></a></th>(.*?)</tr>", text, re.DOTALL))
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for name, row in rows.items()}
    assert cells[SLOW][:3] == ["1", "0", "0"]
    assert cells[SLOW][4] == "0"
    assert cells[STREAM][4] == "1"
    assert ">1</a>" in cells[STREAM][5]
    assert cells[STREAM][6] == "shop:flaky, shop:order, shop:undo, shop:wait"
    assert cells["trip"] == ["1", "0", "0"]


async def test_a_stream_that_cannot_be_read_hides_no_other(shown: Shown) -> None:
    """Its row says why; the others are there, and so are the dead letters."""
    await shown.bus.command("SET", shown.bus.key(f"{SLOW}:dead"), "x")
    text = await shown.get("/")
    assert "cannot be read" in text
    assert f"<code>{STREAM}</code>" in text
    assert LETTER in await shown.get("/dead")


async def test_a_stream_with_an_invalid_name_hides_no_other(shown: Shown) -> None:
    """Another program may use any name, also among the listeners."""
    await add_entry(shown.bus, "a b:dead", {"a": "b"})
    await add_entry(shown.bus, "a b:commands", {"a": "b"})
    await shown.bus.command("ZADD", shown.bus.key("listeners:a b"), 9e15, "x\ny")
    assert LETTER in await shown.get("/dead")
    for path in ("/", "/listeners"):
        assert STREAM in await shown.get(path)
    assert "cannot be read" in await shown.get("/")
    await shown.bus.command("DEL", shown.bus.key("listeners:a b"))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, {"order-7", "order-8", "order-9"}),
        ({"status": "failed"}, {"order-7"}),
        ({"status": "completed"}, {"order-8"}),
        ({"stream": SLOW}, {"order-9"}),
        ({"event_type": "shop:order"}, {"order-7", "order-8"}),
        ({"id": "order-8"}, {"order-8"}),
        ({"id": "order"}, {"order-7", "order-8", "order-9"}),
        ({"id": "order-[78]"}, set()),
        ({"saga": "none"}, set()),
        ({"correlation": "none"}, set()),
        ({"id": "order-8", "status": "failed"}, set()),
        ({"id": "{ }"}, set()),
    ],
)
async def test_requests_are_filtered(shown: Shown, query: dict[str, str], found: set[str]) -> None:
    """By status, stream, event type, and the beginning of an id, which is no pattern."""
    text = await shown.get("/requests", 200, **query)
    assert set(re.findall(r"<code>(order-\d)</code></a>", text)) == found


async def test_requests_are_paged(shown: Shown) -> None:
    """Each is on one page, in steps of 50."""
    emit = shown.bus.emit_command
    await asyncio.gather(
        *(
            emit(SLOW, event_type="slow:wait", payload={}, request_id=f"many-{n}")
            for n in range(120)
        )
    )
    seen: list[str] = []
    address, pages = "/requests?id=many", 0
    while address:
        text = await shown.get(address)
        seen += re.findall(r"<code>(many-\d+)</code></a>", text)
        pages += 1
        found = re.search(r'href="([^"]+)" rel="next"', text)
        address = found[1] if found else ""
    assert sorted(seen) == sorted(f"many-{n}" for n in range(120))
    assert pages == 3


async def test_a_search_ends_in_time_and_goes_on(shown: Shown) -> None:
    """What a filter does not find at once is searched for page by page, and none is missed."""
    emit = shown.bus.emit_command
    await asyncio.gather(
        *(
            emit(SLOW, event_type="slow:wait", payload={}, request_id=f"many-{n}")
            for n in range(700)
        )
    )
    found, after, pages = set[str](), "", 0
    while True:
        page = await find_requests(
            shown.bus, after=after, within_s=0.0, fits=lambda each: each.status == "failed"
        )
        found |= {each.request_id for each in page.requests}
        pages, after = pages + 1, page.after
        if not after:
            break
        assert not page.is_complete
    assert found == {"order-7"}
    assert pages > 2


async def test_a_failed_request_says_why(shown: Shown) -> None:
    """Its error, its traceback, and the button that retries it."""
    text = await shown.get("/request", id="order-7")
    assert "KeyError('count')" in text
    assert "Traceback" in text
    assert "/request/retry?id=order-7" in text
    assert "/request/cancel" not in text


async def test_a_request_is_found_by_the_beginning_of_its_id(shown: Shown) -> None:
    """An ambiguous one is refused, with candidates."""
    assert "order-8" in await shown.get("/request", id="order-8")
    assert "several requests begin with order" in await shown.get("/request", 409, id="order")
    assert "there is no request nothing" in await shown.get("/request", 404, id="nothing")
    assert "request_id" in await shown.get("/request", 422, id="")


async def test_the_stages_of_a_followed_request_are_grouped_by_attempt(shown: Shown) -> None:
    """Start, progress and end; the end closes the progress."""

    async def follow() -> None:
        async for stage in shown.bus.follow("order-10"):
            if stage["status"] == "completed":
                return

    following = asyncio.create_task(follow())
    await eventually(
        lambda: shown.bus.command("EXISTS", shown.bus.key("request:order-10")),
        within_s=5,
        why="it is followed",
    )
    await shown.bus.emit_command(
        STREAM, event_type="shop:order", payload={"count": 2}, request_id="order-10"
    )
    await following
    text = await shown.get("/request", id="order-10")
    assert re.findall(r"</span> <strong>(\w+)</strong>", text)[-3:] == [
        "start",
        "progress",
        "completed",
    ]
    assert "Attempt 1" in text
    assert "<progress" not in text


async def test_a_waiting_attempt_says_why_the_last_one_failed_and_when_it_is_due(
    shown: Shown,
) -> None:
    """On its page and in the list."""
    await shown.bus.emit_command(STREAM, event_type="shop:flaky", payload={}, request_id="flaky-1")

    async def is_waiting() -> bool:
        return bool((await _status(shown.bus, "flaky-1")).due_time_s)

    await eventually(is_waiting, within_s=5, why="its first attempt has failed")
    for text in (
        await shown.get("/request", id="flaky-1"),
        await shown.get("/requests", id="flaky"),
    ):
        assert "the card reader is off" in text
        assert "ext attempt" in text
    assert "in 59 min" in await shown.get("/request", id="flaky-1")
    assert '<td class="number">1</td>' in await shown.get("/")
    assert (await shown.do("/request/cancel", id="flaky-1")).status_code == 303


async def test_a_running_request_is_cancelled(shown: Shown) -> None:
    """It has a progress and a lease while it runs, and none when it has ended."""
    await shown.bus.emit_command(STREAM, event_type="shop:wait", payload={}, request_id="wait-1")

    async def has_progress() -> bool:
        return bool((await _status(shown.bus, "wait-1")).progress)

    await eventually(has_progress, within_s=5, why="it runs")
    text = await shown.get("/request", id="wait-1")
    assert '<progress value="0.25"' in text
    assert "runs for" in text
    answer = await shown.do("/request/cancel", id="wait-1")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/request?id=wait-1&done=cancelling",
    )

    async def is_cancelled() -> bool:
        return (await _status(shown.bus, "wait-1")).status == "cancelled"

    await eventually(is_cancelled, within_s=5, why="it is cancelled")
    text = await shown.get("/request", id="wait-1")
    assert "<progress" not in text
    assert "runs for" not in text


async def test_a_request_that_ends_while_it_is_read_is_read_again(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is another kind of value then."""
    await shown.bus.emit_command(STREAM, event_type="shop:wait", payload={}, request_id="wait-2")

    async def has_progress() -> bool:
        return bool((await _status(shown.bus, "wait-2")).progress)

    await eventually(has_progress, within_s=5, why="it runs")
    command = shown.bus.command

    async def end_before(*words: Any, **options: Any) -> Any:
        if words[0] == "HGET":
            monkeypatch.undo()
            await shown.bus.cancel("wait-2")
            await eventually(lambda: shown.bus.outcome("wait-2"), within_s=5, why="it is cancelled")
        return await command(*words, **options)

    monkeypatch.setattr(shown.bus, "command", end_before)
    assert (await _status(shown.bus, "wait-2")).status == "cancelled"


async def test_a_failed_request_is_retried_once(shown: Shown) -> None:
    """Two clicks emit one new request; one that has completed is refused."""
    first = await shown.do("/request/retry", id="order-7")
    again = await shown.do("/request/retry", id="order-7")
    assert first.headers["location"] == again.headers["location"]
    assert "Emitted again" in await shown.get(first.headers["location"])
    refused = await shown.client.get("/request/retry", params={"id": "order-8"})
    assert refused.status_code == 409
    assert "has completed" in refused.text


async def test_a_stuck_saga_is_shown_and_resumed(shown: Shown) -> None:
    """Its steps and its lane are on one axis; resuming needs a confirmation."""
    await _stuck(shown.bus)
    assert "trip-1" in await shown.get("/sagas", status="stuck")
    assert "trip-1" not in await shown.get("/sagas", status="running")
    text = await shown.get("/saga", id="trip-1")
    steps, lane = text.split("Compensation, in reverse")
    assert 'class="bar-failed"' in steps
    assert 'class="bar-failed"' in lane
    assert "the printer is off" in lane
    assert "the printer is off" not in steps
    assert steps.count("axis-row") == lane.count("axis-row") == 1
    assert "KeyError('count')" in steps
    assert "/saga/compensate" not in text
    assert "gets new attempts" in await shown.get("/saga/resume", id="trip-1")
    answer = await shown.do("/saga/resume", id="trip-1")
    assert answer.headers["location"] == "/saga?id=trip-1&done=resumed"
    (journal,) = (await find_sagas(shown.bus, name="trip")).journals
    assert journal.status == "compensating"


async def test_a_running_saga_is_compensated_with_a_reason(shown: Shown) -> None:
    """The confirmation names the steps; it cannot be done twice."""
    await _running(shown.bus)
    text = await shown.get("/saga", id="trip-2")
    assert "Compensate…" in text
    assert "compensation: wait." in await shown.get("/saga/compensate", id="trip-2")
    answer = await shown.do("/saga/compensate", id="trip-2", reason="the customer called")
    assert answer.status_code == 303
    text = await shown.get("/saga", id="trip-2")
    assert "the customer called" in text
    refused = await shown.get("/saga/compensate", 409, id="trip-2")
    assert "only a running one can be compensated" in refused


async def test_a_saga_that_waits_gets_its_event(shown: Shown) -> None:
    """With a payload that is checked; it cannot be sent to one that does not wait."""
    saga = Saga("approved", (WaitFor("approval"), WaitFor("second")))
    runner = SagaRunner(shown.bus, saga)
    await runner.start({}, saga_id="trip-3")
    text = await shown.get("/saga", id="trip-3")
    assert "Send approval…" in text
    assert 'class="bar-waiting"' in text
    assert "waits for approval" in await shown.get("/saga/signal", id="trip-3", name="approval")
    wrong = await shown.do("/saga/signal", id="trip-3", name="approval", payload="[1]")
    assert wrong.status_code == 422
    assert "payload" in wrong.text
    answer = await shown.do("/saga/signal", id="trip-3", name="approval", payload='{"by": "ada"}')
    assert answer.headers["location"] == "/saga?id=trip-3&done=signalled"
    assert "goes on with it" in await shown.get("/saga", id="trip-3", done="signalled")
    await runner.wake("trip-3")
    assert (await runner.journal("trip-3")).results() == {"approval": {"by": "ada"}}
    refused = await shown.get("/saga/signal", 409, id="trip-3", name="approval")
    assert "does not wait for approval now" in refused
    await runner.compensate("trip-3", "the end of the test")
    assert "Send second…" not in await shown.get("/saga", id="trip-3")


async def test_an_unreadable_saga_hides_no_other(shown: Shown) -> None:
    """It is listed as such; its own page says what is wrong."""
    await _running(shown.bus)
    await shown.bus.command("HSET", shown.bus.key("saga:odd"), "journal", "no json", "version", 1)
    await shown.bus.command("ZADD", shown.bus.key("sagas:wait:open"), 1, "odd")
    text = await shown.get("/sagas")
    assert "trip-2" in text
    assert "unreadable" in text
    assert "odd" in await shown.get("/sagas", status="unreadable")
    assert "odd" in await shown.get("/saga", 409, id="odd")


async def test_an_unreadable_request_hides_no_other(shown: Shown) -> None:
    """It is listed as such."""
    await shown.bus.command("HSET", shown.bus.key("request:odd"), "state", "x", "layout", "1")
    text = await shown.get("/requests")
    assert "order-8" in text
    assert "unreadable" in text
    assert "odd" in await shown.get("/requests", status="unreadable")
    assert "Malformed data" in await shown.get("/request", 502, id="odd")
    await shown.bus.command("DEL", shown.bus.key("request:odd"))


async def test_a_dead_letter_is_shown_and_retried(shown: Shown) -> None:
    """It is emitted again, and gone."""
    text = await shown.get("/dead/letter", stream=STREAM, id=LETTER)
    assert "HandlerLost: gone" in text
    answer = await shown.do("/dead/retry", stream=STREAM, id=LETTER)
    new_id = httpx.URL(answer.headers["location"]).params["id"]
    reply = await eventually(
        lambda: shown.bus.outcome(new_id), within_s=5, why="the new request has ended"
    )
    assert reply["status"] == "completed"
    assert await dead_letters(shown.bus, STREAM) == []
    await shown.get("/dead/letter", 404, stream=STREAM, id=LETTER)


async def test_a_dead_letter_is_dropped(shown: Shown) -> None:
    """After a confirmation that names it."""
    asked = await shown.get("/dead/drop", stream=STREAM, id=LETTER)
    assert f"Drop the dead letter {LETTER} of {STREAM}" in asked
    answer = await shown.do("/dead/drop", stream=STREAM, id=LETTER)
    assert "The dead letter is deleted" in await shown.get(answer.headers["location"])
    assert await dead_letters(shown.bus, STREAM) == []


async def test_dead_letters_are_paged(shown: Shown) -> None:
    """The newest first, 50 at a time."""
    for number in range(60):
        fields = {"payload": "{}", "dead_reason": "x"}
        await add_entry(shown.bus, f"{SLOW}:dead", fields, entry_id=f"{number + 1}-0")
    text = await shown.get("/dead", stream=SLOW)
    first = re.findall(r"<code>(\d+-0)</code></a>", text)
    more = re.search(r'href="([^"]+)" rel="next"', text)
    assert more is not None
    second = re.findall(r"<code>(\d+-0)</code></a>", await shown.get(more[1]))
    assert [*first, *second] == [f"{number}-0" for number in range(60, 0, -1)]


@pytest.mark.parametrize(
    ("target", "shown_as"), [("", "the whole stream"), ("shop:order", "shop:order")]
)
async def test_a_stream_is_paused_and_resumed(shown: Shown, target: str, shown_as: str) -> None:
    """After a confirmation each, with a reason; what waits says for what."""
    done = await shown.do(
        "/stream/pause", stream=STREAM, target=target, reason="the bank is closed"
    )
    assert done.headers["location"] == "/stream?stream=shop%3Acommands&done=paused"
    await shown.bus.emit_command(
        STREAM, event_type="shop:order", payload={"count": 1}, request_id="order-10"
    )
    await eventually(lambda: queues(shown.bus, STREAM), within_s=10, why="it waits")
    page = await shown.get("/stream", stream=STREAM)
    for text in (shown_as, "the bank is closed", "paused"):
        assert text in page
    assert "paused" in await shown.get("/")
    assert "Waits for" in await shown.get("/request", id="order-10")
    assert "waits for paused" in await shown.get("/requests", id="order-10")
    assert await shown.bus.outcome("order-10") is None
    await shown.do("/stream/resume", stream=STREAM, target=target)
    await eventually(lambda: shown.bus.outcome("order-10"), within_s=10, why="it has ended")
    assert "Nothing is paused." in await shown.get("/stream", stream=STREAM)


async def test_a_target_that_is_none_is_named(shown: Shown) -> None:
    """And a stream that is not one, before anything is asked."""
    assert "stream: '' must not be empty" in await shown.get("/stream/pause", 422)
    asked = await shown.do("/stream/pause", stream=STREAM, target="a b")
    assert asked.status_code == 422
    assert "event_type" in asked.text
    assert not await pauses(shown.bus, STREAM)


async def test_schedules_are_shown(shown: Shown) -> None:
    """When each is due, what it emits, and how its last request ended; none at first."""
    assert "There is no schedule" in await shown.get("/schedules")
    await set_schedule(shown.bus, HOURLY)
    await set_schedule(shown.bus, OLD)
    await shown.bus.command("HSET", shown.bus.key("schedule:broken"), "spec", "{")
    text = await shown.get("/schedules")
    rows = dict(re.findall(r'row"><code>(\S+)</code></th>(.*?)</tr>', text, re.DOTALL))
    assert set(rows) == {"hourly", "old", "broken"}
    assert "every 3600 s" in rows["hourly"]
    assert "is-active" in rows["hourly"]
    assert "is-ended" in rows["old"]
    assert "is malformed" in rows["broken"]
    assert "/schedule/run" not in rows["broken"]


async def test_a_schedule_that_nobody_fires_is_overdue(shown: Shown) -> None:
    """It says so in its row."""
    await set_schedule(shown.bus, NIGHTLY)
    assert "overdue" not in await shown.get("/schedules")
    long_ago = int(1000 * (time.time() - 61))
    await shown.bus.command(
        "HSET", shown.bus.key("schedule:nightly"), "due", long_ago, "at", long_ago
    )
    assert "overdue" in await shown.get("/schedules")


async def test_a_schedule_is_paused_resumed_run_and_dropped(shown: Shown) -> None:
    """Each says what follows from it, and does what the verb does."""
    await set_schedule(shown.bus, HOURLY)

    async def state() -> str:
        (found,) = await find_schedules(shown.bus)
        return found.state

    assert "No listener fires it" in await shown.get("/schedule/pause", name="hour")
    paused = await shown.do("/schedule/pause", name="hourly")
    assert (paused.status_code, await state()) == (303, "paused")
    assert "no listener fires it" in await shown.get(paused.headers["location"])
    run = await shown.do("/schedule/run", name="hourly")
    (found,) = await find_schedules(shown.bus)
    assert (
        run.headers["location"]
        == f"/request?{urlencode({'id': found.last_request, 'done': 'run'})}"
    )
    assert await shown.bus.read_replies(STREAM, found.last_request, found.last_request, 5.0)
    resumed = await shown.do("/schedule/resume", name="hourly")
    assert (resumed.status_code, await state()) == (303, "active")
    dropped = await shown.do("/schedule/drop", name="hourly")
    assert dropped.status_code == 303
    assert await find_schedules(shown.bus) == []
    assert "nightly" in await shown.get("/schedule/drop", 404, name="nightly")


async def test_listeners_are_shown(shown: Shown) -> None:
    """With what they handle."""
    assert "shop:flaky, shop:order, shop:undo, shop:wait" in await shown.get("/listeners")


async def test_hostile_content_is_escaped_everywhere(shown: Shown) -> None:
    """Ids, types, payloads, reasons and fields: no markup, and no character that turns a line."""
    name = HOSTILE.replace(" ", "")
    await shown.bus.emit_command(
        SLOW, event_type=name, payload={"a": HOSTILE}, request_id=name, correlation_id=name
    )
    letter = {"event_type": name, "request_id": name, "payload": HOSTILE, name: HOSTILE}
    await add_entry(shown.bus, f"{SLOW}:dead", letter | {"dead_reason": HOSTILE}, entry_id=LETTER)
    runner = SagaRunner(shown.bus, WAIT)
    await runner.start({HOSTILE: HOSTILE}, saga_id=name)
    pages = [
        ("/", {}),
        ("/requests", {}),
        ("/requests", {"id": name, "event_type": name, "stream": HOSTILE}),
        ("/request", {"id": name}),
        ("/request/cancel", {"id": name}),
        ("/sagas", {"name": ""}),
        ("/saga", {"id": name}),
        ("/saga/compensate", {"id": name}),
        ("/dead", {}),
        ("/dead/letter", {"stream": SLOW, "id": LETTER}),
        ("/request", {"id": HOSTILE + "{"}),
        ("/dead", {"stream": HOSTILE + "{"}),
        ("/requests", {"status": HOSTILE}),
    ]
    for path, query in pages:
        answer = await shown.client.get(path, params=query)
        assert "<script" not in answer.text, path
        assert "\u202e" not in answer.text, path
        assert answer.status_code in {200, 404, 422}, (path, answer.text)
    assert (await shown.do("/request/cancel", id=name)).status_code == 303
    assert (await _status(shown.bus, name)).status == "cancelled"


async def test_a_huge_payload_is_cut_on_the_page(shown: Shown) -> None:
    """The page says how much is not shown."""
    fields = {"payload": "x" * 100_000, "dead_reason": "y" * 1000}
    await add_entry(shown.bus, f"{SLOW}:dead", fields, entry_id=LETTER)
    text = await shown.get("/dead/letter", stream=SLOW, id=LETTER)
    assert "80000 more characters are not shown" in text
    assert len(await shown.get("/dead", stream=SLOW)) < 10_000


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": "https://evil.test"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://127.0.0.1:8400"}, 303),
        ({"content-type": "text/plain"}, 415),
        ({"host": "evil.test"}, 421),
        ({"cookie": ""}, 403),
    ],
)
async def test_only_a_form_of_this_page_changes_something(
    shown: Shown, headers: dict[str, str], code: int
) -> None:
    """Not one of another site, nor one without its token."""
    asked = await shown.client.get("/request/cancel", params={"id": "order-9"})
    token = re.search(r'name="form_token" value="(\w+)"', asked.text)
    assert token is not None
    form = {"id": "order-9", "form_token": token[1]}
    answer = await shown.client.post("/request/cancel", data=form, headers=headers)
    assert answer.status_code == code
    expected = "cancelled" if code == 303 else "pending"
    assert (await _status(shown.bus, "order-9")).status == expected


async def test_a_form_without_its_token_or_too_large_changes_nothing(shown: Shown) -> None:
    """Each is refused."""
    await shown.get("/request/cancel", id="order-9")
    post = shown.client.post
    assert (await post("/request/cancel", data={"id": "order-9"})).status_code == 403
    large = {"id": "order-9", "reason": "x" * 70_000}
    assert (await post("/request/cancel", data=large)).status_code == 413
    many = {f"f{number}": "" for number in range(100)}
    assert (await post("/request/cancel", data=many)).status_code == 400
    assert (await _status(shown.bus, "order-9")).status == "pending"


async def test_a_page_changes_nothing(shown: Shown) -> None:
    """An action needs a POST; a HEAD is answered."""
    for path in (
        "/request/cancel",
        "/",
        "/requests",
        "/sagas",
        "/dead",
        "/schedules",
        "/listeners",
    ):
        head = await shown.client.head(path, params={"id": "order-9"})
        assert head.status_code == 200, path
    assert (await _status(shown.bus, "order-9")).status == "pending"
    assert (await shown.client.post("/requests")).status_code == 415
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert (await shown.client.post("/requests", headers=form)).status_code == 405


async def test_every_answer_has_the_headers_of_security(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also errors, refusals, and the page of an unexpected error; no page has a script."""

    async def fail(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("a defect")

    answers = [await shown.client.get(path) for path in ("/", "/style.css", "/nothing")]
    answers.append(await shown.client.get("/", headers={"host": "evil.test"}))
    monkeypatch.setattr("sagastream.web.views.listeners", fail)
    answers.append(await shown.client.get("/listeners"))
    assert [answer.status_code for answer in answers] == [200, 200, 404, 421, 500]
    for answer in answers:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "<script" not in answer.text
        assert " style=" not in answer.text
    assert "a defect" not in answers[-1].text


@pytest.mark.parametrize(
    ("path", "query", "name"),
    [
        ("/requests", {"after": "x"}, "after"),
        ("/requests", {"status": "odd"}, "status"),
        ("/sagas", {"after": "-1"}, "after"),
        ("/sagas", {"status": "odd"}, "status"),
        ("/dead", {"stream": STREAM, "before": "x"}, "before"),
        ("/dead/letter", {"stream": STREAM, "id": "x"}, "letter_id"),
        ("/dead/letter", {"stream": "", "id": LETTER}, "stream"),
    ],
)
async def test_an_invalid_value_is_named(
    shown: Shown, path: str, query: dict[str, str], name: str
) -> None:
    """The page says which field is wrong."""
    assert name in await shown.get(path, 422, **query)


@pytest.mark.blocking
async def test_the_page_says_what_to_do_when_the_server_is_away(
    own_server: EmbeddedServer,
) -> None:
    """And works again when the server is back."""
    async with Bus(own_server.url, call_timeout_s=0.5) as bus, client_of(bus) as client:
        assert (await client.get("/")).status_code == 200
        own_server.kill()
        for path in (
            "/",
            "/requests",
            "/sagas",
            "/dead",
            "/schedules",
            "/listeners",
            "/request?id=a",
        ):
            answer = await client.get(path)
            assert answer.status_code == 503, path
            assert "Start the server" in answer.text
            assert answer.headers["retry-after"] == "5"
        own_server.start()

        async def is_back() -> bool:
            return (await client.get("/")).status_code == 200

        await eventually(is_back, within_s=10, why="the page is back")


async def test_large_headers_are_refused(shown: Shown) -> None:
    """By their number and by their size."""
    for headers in ({f"x-{number}": "" for number in range(120)}, {"x-large": "x" * 40_000}):
        answer = await shown.client.get("/", headers=headers)
        assert answer.status_code == 431


@pytest.mark.parametrize("strips", [True, False])
async def test_all_addresses_are_below_the_root_path(shown: Shown, strips: bool) -> None:
    """Links, forms, style and redirects, whether or not the proxy removes the path."""
    at = "" if strips else "/jobs"
    page = ForwardedMiddleware(make_page(shown.bus), root_path="/jobs")
    transport = httpx.ASGITransport(page)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8400") as client:
        for path in (
            "/",
            "/requests",
            "/request?id=order-7",
            "/request/cancel?id=order-9",
            "/dead",
        ):
            text = (await client.get(f"{at}{path}")).text
            found = re.findall(r'(?:href|action)="(/[^"]*)"', text)
            assert len(found) > 6
            assert [one for one in found if not one.startswith("/jobs/")] == []
        token = re.search(
            r'name="form_token" value="(\w+)"',
            (await client.get(f"{at}/request/cancel?id=order-9")).text,
        )
        assert token is not None
        form = {"id": "order-9", "form_token": token[1]}
        answer = await client.post(f"{at}/request/cancel", data=form)
        assert answer.headers["location"].startswith("/jobs/request?")
        assert (await client.get(f"{at}/style.css")).status_code == 200


async def test_a_token_opens_the_page(bus: Bus) -> None:
    """By a login or as a bearer; without it nothing is said of the server."""
    async with client_of(bus, token=TOKEN) as client:
        browser = {"accept": "text/html"}
        assert (await client.get("/", headers=browser)).headers["location"] == "/login"
        refused = await client.get("/requests")
        assert refused.status_code == 401
        assert bus.address not in refused.text
        assert bus.address not in (await client.get("/login")).text
        assert (await client.post("/login", data={"token": "wrong"})).status_code == 401
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert (await client.get("/", headers=bearer)).status_code == 200
        lower = {"authorization": f"bearer {TOKEN}"}
        assert (await client.get("/", headers=lower)).status_code == 200
        assert (await client.get("/", headers={"authorization": TOKEN})).status_code == 401
        entered = await client.post("/login", data={"token": TOKEN})
        assert entered.status_code == 303
        assert TOKEN not in entered.headers["set-cookie"]
        assert (await client.get("/")).status_code == 200
        await client.post("/logout", data={"x": ""})
        assert (await client.get("/")).status_code == 401


async def test_tokens_cannot_be_guessed(bus: Bus) -> None:
    """Too many wrong ones in a second are refused as such."""
    async with client_of(bus, token=TOKEN) as client:
        codes = [
            (await client.get("/", headers={"authorization": "Bearer x"})).status_code
            for _ in range(8)
        ]
        assert codes[:5] == [401] * 5
        assert 429 in codes
        codes = [(await client.post("/login", data={"token": "x"})).status_code for _ in range(8)]
        assert 429 in codes


@pytest.mark.blocking
@pytest.mark.parametrize(
    ("host", "content", "why"),
    [
        ("0.0.0.0", None, "required to listen on 0.0.0.0"),  # noqa: S104 - it is refused
        ("example.test", None, "required to listen on example.test"),
        ("127.0.0.1", "short", "128 random bits"),
        ("127.0.0.1", "", "128 random bits"),
    ],
)
def test_without_a_token_only_this_machine_is_served(
    tmp_path: Path, host: str, content: str | None, why: str
) -> None:
    """And a token that can be guessed is refused."""
    path = None
    if content is not None:
        path = tmp_path / "token"
        path.write_text(content)
    with pytest.raises(InvalidMessage, match=why):
        read_token(path, host=host)


@pytest.mark.blocking
def test_a_token_is_read_from_its_file(tmp_path: Path) -> None:
    """A page for this machine needs none; a missing file is named."""
    path = tmp_path / "token"
    with pytest.raises(InvalidMessage, match=r"token-file.*cannot read"):
        read_token(path, host="::1")
    path.write_text(f"{TOKEN}\n")
    assert read_token(path, host="0.0.0.0") == TOKEN  # noqa: S104 - nothing listens
    assert read_token(None, host="::1") == ""
    assert read_token(None, host="localhost") == ""


@pytest.mark.blocking
@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["serve", "--port", "99999"], 2, "99999 is not a port"),
        (["serve", "--host", "0.0.0.0"], 2, "--token-file"),  # noqa: S104 - it is refused
        (["--url", "redis://127.0.0.1:1/0", "serve", "--port", "0"], 1, "127.0.0.1:1"),
        (["--url", "nonsense", "serve"], 2, "redis://HOST:PORT/0"),
    ],
)
def test_what_is_wrong_gets_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, why: str
) -> None:
    """And its exit code."""
    try:
        ended = main(arguments)
    except SystemExit as error:
        ended = int(str(error.code))
    captured = capsys.readouterr()
    assert ended == code, captured.err
    assert why in captured.err
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.blocking
def test_without_the_extra_one_line_names_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library itself does not need what the page needs."""
    monkeypatch.setitem(sys.modules, "sagastream.web.serving_page", None)
    assert main(["serve"]) == 1
    assert "pip install 'sagastream[serve]'" in capsys.readouterr().err


def test_attempts_end_as_the_request_does() -> None:
    """One that another followed is not shown as running; a cancel from outside ends the last."""
    start, end = (RequestStage(status, 1.0, {}, "1") for status in ("start", "progress"))
    second = RequestStage("start", 2.0, {}, "2")
    request = RequestDetails("r", "running")
    assert [each.status for each in attempts_of(request, [start, end, second])] == [
        "retried",
        "running",
    ]
    waiting = RequestDetails("r", "pending", failure={"error_type": "E", "message": "off"})
    (attempt,) = attempts_of(waiting, [start, end])
    assert (attempt.status, attempt.why) == ("retried", "E: off")
    cancelled = RequestStage("cancelled", 3.0, {}, "")
    (attempt,) = attempts_of(RequestDetails("r", "cancelled"), [start, cancelled])
    assert (attempt.status, attempt.duration_s) == ("cancelled", 2.0)
    (attempt,) = attempts_of(RequestDetails("r", "completed"), [start, end])
    assert attempt.status == "completed"
