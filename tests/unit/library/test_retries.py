"""Retry policies: another attempt after a failed one, without a slot in between."""

import asyncio
import time
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    CommandListener,
    DeadlineExceeded,
    Handler,
    InvalidMessage,
    RequestCancelled,
    RequestFailed,
    RetryPolicy,
    multi_stage_reply,
)
from sagastream.status import request_status
from sagastream.testing import EmbeddedServer
from tests.listeners import listening
from tests.plain_client import call
from tests.polling import eventually
from tests.records import record_of

STREAM = "work:commands"
QUICK = RetryPolicy(attempts=3, first_delay_s=0.02, factor=1.0)
LATE = RetryPolicy(attempts=3, first_delay_s=3600.0, max_delay_s=3600.0)


class Flaky:
    """Handlers that fail some times.

    Args:
        errors: What the attempts raise, one after the other; then they succeed.
        policy: The policy.
    """

    def __init__(self, *errors: BaseException, policy: RetryPolicy | None = QUICK) -> None:
        self.attempts: list[int] = []
        self._errors = list(errors)
        self.handler = Handler(STREAM, "work:do", self._handle, retry=policy)

    async def _handle(self, command: Command, _progress: Any) -> dict[str, Any]:
        self.attempts.append(command.attempt)
        if self._errors:
            raise self._errors.pop(0)
        return {"attempt": command.attempt}


@multi_stage_reply(stream=STREAM, event_type="work:plain")
async def plain(_command: Command) -> None:
    """Do nothing."""


async def _ask(bus: Bus, **options: Any) -> dict[str, Any]:
    return await bus.request_and_reply(STREAM, "work:do", {}, 10, request_id="r", **options)


async def test_another_attempt_follows_a_failed_one(bus: Bus) -> None:
    """The requester sees a start for each attempt, and one end."""
    flaky = Flaky(ValueError("first"), KeyError("second"))
    stages: list[str] = []
    async with listening(bus, [flaky.handler]):
        reply = await _ask(bus, on_progress=lambda stage: stages.append(stage["status"]))
    assert reply["payload"] == {"attempt": 3}
    assert flaky.attempts == [1, 2, 3]
    assert stages == ["start", "start", "start", "completed"]


async def test_the_last_attempt_fails_the_request(bus: Bus) -> None:
    """With its own error; there is not one attempt more."""
    flaky = Flaky(*(ValueError(f"no {number}") for number in range(9)))
    async with listening(bus, [flaky.handler]):
        with pytest.raises(RequestFailed, match="no 2"):
            await _ask(bus)
    assert flaky.attempts == [1, 2, 3]


@pytest.mark.parametrize(
    ("policy", "error", "attempts"),
    [
        (None, ValueError(), 1),
        (RetryPolicy(attempts=1), ValueError(), 1),
        (RetryPolicy(retry_on=(OSError,), first_delay_s=0.01), ValueError(), 1),
        (RetryPolicy(retry_on=(Exception,), first_delay_s=0.01), ValueError(), 2),
        (RetryPolicy(retry_on=("ValueError",), first_delay_s=0.01), ValueError(), 2),
        (RetryPolicy(retry_on=("LookupError",), first_delay_s=0.01), KeyError(), 2),
        (RetryPolicy(never_on=(ValueError,), first_delay_s=0.01), ValueError(), 1),
        (RetryPolicy(never_on=("Exception",), first_delay_s=0.01), ValueError(), 1),
        (RetryPolicy(first_delay_s=0.01), InvalidMessage("order", "is empty"), 1),
        (
            RetryPolicy(retry_on=(InvalidMessage,), first_delay_s=0.01),
            InvalidMessage("order", "is empty"),
            2,
        ),
    ],
)
async def test_the_policy_says_which_errors_are_tried_again(
    bus: Bus, policy: RetryPolicy | None, error: Exception, attempts: int
) -> None:
    """By class or by name; `never_on` wins, and a requester's fault is final by default."""
    flaky = Flaky(error, policy=policy)
    async with listening(bus, [flaky.handler]):
        if attempts == 1:
            with pytest.raises(RequestFailed):
                await _ask(bus)
        else:
            await _ask(bus)
    assert len(flaky.attempts) == attempts


async def test_a_request_that_waits_holds_no_slot(bus: Bus) -> None:
    """Many wait, and a listener with one slot answers others at once; nothing is pending."""
    flaky = Flaky(*(ValueError() for _ in range(20)), policy=LATE)
    async with listening(bus, [flaky.handler, plain], concurrency=1):
        for number in range(20):
            await bus.emit_command(
                STREAM, event_type="work:do", payload={}, request_id=f"w{number}"
            )
        await eventually(lambda: len(flaky.attempts) == 20, within_s=10, why="all have failed")

        async def waiting() -> bool:
            return bool(await bus.command("GET", bus.key(f"{STREAM}:later:length")) == b"20")

        await eventually(waiting, within_s=10, why="all wait")
        await bus.request_and_reply(STREAM, "work:plain", {}, 10)
        assert (await bus.command("XPENDING", bus.key(STREAM), "sagastream"))["pending"] == 0
    status = await request_status(bus, "w0")
    assert status
    assert (status.status, status.attempts, status.failures) == ("pending", 1, 1)
    assert status.due_s is not None
    assert 3000 < status.due_s <= 3960
    for number in range(20):
        assert await bus.cancel(f"w{number}") == "cancelled"
    assert not await call(bus, "EXISTS", f"{STREAM}:later")


async def test_the_wait_survives_the_listener(bus: Bus) -> None:
    """Any other listener of the stream makes the next attempt, when it is due."""
    policy = RetryPolicy(attempts=2, first_delay_s=0.4, jitter=0.0)
    flaky = Flaky(ValueError(), policy=policy)
    async with listening(bus, [flaky.handler]):
        await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
        await eventually(lambda: flaky.attempts, within_s=5, why="it has failed once")

        async def waits() -> bool:
            return (await record_of(bus, "r"))["failures"] == "1"

        await eventually(waits, within_s=5, why="it waits")
    async with listening(bus, [flaky.handler]):
        assert (await _ask(bus))["payload"] == {"attempt": 2}
    assert flaky.attempts == [1, 2]


async def test_the_next_attempt_is_on_time(bus: Bus) -> None:
    """A read that waits for new commands does not delay it."""
    delay_s = 0.3
    flaky = Flaky(ValueError(), policy=RetryPolicy(first_delay_s=delay_s, jitter=0.0))
    async with listening(bus, [flaky.handler], lease_s=10):
        began = time.monotonic()
        await _ask(bus)
        took_s = time.monotonic() - began
    assert delay_s <= took_s < 1.0


async def test_a_request_that_waits_can_be_cancelled(bus: Bus) -> None:
    """At once, and no attempt follows."""
    flaky = Flaky(ValueError(), policy=RetryPolicy(first_delay_s=0.3, jitter=0.0))
    async with listening(bus, [flaky.handler]):
        asked = asyncio.create_task(_ask(bus))

        async def waits() -> bool:
            return (await record_of(bus, "r")).get("failures") == "1"

        await eventually(waits, within_s=5, why="it waits")
        assert await bus.cancel("r") == "cancelled"
        with pytest.raises(RequestCancelled):
            await asked
        assert not await call(bus, "EXISTS", f"{STREAM}:later")
    assert flaky.attempts == [1]


async def test_no_attempt_is_waited_for_beyond_the_deadline(bus: Bus) -> None:
    """The request fails now, with what the last attempt said."""
    flaky = Flaky(ValueError("as requested"), policy=LATE)
    async with listening(bus, [flaky.handler]):
        await bus.emit_command(
            STREAM,
            event_type="work:do",
            payload={},
            request_id="r",
            reply_stream="mine",
            correlation_id="c",
            deadline_s=60,
        )
        with pytest.raises(RequestFailed, match="as requested") as failed:
            await bus.read_replies("mine", "c", "r", 10)
    assert not isinstance(failed.value, DeadlineExceeded)


async def test_failed_attempts_are_no_lost_handlers(bus: Bus) -> None:
    """More of them than `max_deliveries` make no dead letter."""
    policy = RetryPolicy(attempts=8, first_delay_s=0.01, factor=1.0)
    flaky = Flaky(*(ValueError() for _ in range(7)), policy=policy)
    async with listening(bus, [flaky.handler], max_deliveries=2):
        assert (await _ask(bus))["payload"] == {"attempt": 8}


@pytest.mark.blocking
async def test_a_failure_counts_though_the_server_is_away(server_binary: str | None) -> None:
    """It is written when the server is back, however long a call waits; no attempt is added."""
    begun, go = asyncio.Event(), asyncio.Event()
    runs: list[int] = []

    async def fail(command: Command, _progress: Any) -> None:
        runs.append(command.attempt)
        begun.set()
        await go.wait()
        raise ValueError("as requested")

    handler = Handler(STREAM, "work:do", fail, retry=QUICK)
    with EmbeddedServer(aof=True, fsync="always", binary=server_binary) as server:
        async with (
            Bus(server.url, call_timeout_s=0.2) as own,
            CommandListener(own, [handler], lease_s=5.0),
            Bus(server.url, call_timeout_s=20) as bus,
        ):
            reply = asyncio.create_task(bus.request_and_reply(STREAM, "work:do", {}, 30))
            await begun.wait()
            await asyncio.to_thread(server.kill)
            go.set()
            await asyncio.sleep(1.0)  # the outage
            await asyncio.to_thread(server.start)
            with pytest.raises(RequestFailed, match="as requested"):
                await reply
    assert runs == [1, 2, 3]


async def test_a_repeated_postpone_says_the_same(bus: Bus) -> None:
    """Its answer may be lost; the token tells that it was done."""
    requests = bus.session().requests
    entry = await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
    record, stream = bus.key("request:r"), bus.key(STREAM)
    await bus.session().streams.make_group(stream, group="g")
    await bus.command("XREADGROUP", "GROUP", "g", "c", "STREAMS", stream, ">")
    await requests.begin(
        record,
        stream,
        group="g",
        entry_id=entry,
        consumer="c",
        token="t",
        lease_ms=1000,
        retention=bus.retention,
        max_deliveries=5,
        trace=("", "", ""),
    )

    async def postpone(token: str) -> str:
        answer = await requests.postpone(
            record, stream, group="g", entry_id=entry, token=token, delay_ms=60_000, failure="{}"
        )
        return answer.outcome

    assert [await postpone("t"), await postpone("t"), await postpone("other")] == [
        *("ok", "ok", "stale")
    ]
    assert (await record_of(bus, "r"))["failures"] == "1"
    await bus.cancel("r")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": 1.5}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"first_delay_s": -1}, "first_delay_s"),
        ({"first_delay_s": float("nan")}, "first_delay_s"),
        ({"factor": 0.5}, "factor"),
        ({"max_delay_s": float("inf")}, "max_delay_s"),
        ({"jitter": 2}, "jitter"),
        ({"retry_on": ValueError}, "retry_on"),
        ({"retry_on": (1,)}, "retry_on"),
        ({"never_on": "ValueError"}, "never_on"),
    ],
)
def test_a_wrong_policy_is_refused(options: dict[str, Any], named: str) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=named):
        RetryPolicy(**options)


def test_waits_grow_to_their_limit() -> None:
    """With the factor, and with jitter that follows from the seed."""
    policy = RetryPolicy(attempts=9, first_delay_s=1, factor=3, max_delay_s=20, jitter=0)
    waits = [policy.delay_s(failures, ValueError(), seed="r") for failures in range(1, 10)]
    assert waits == [1, 3, 9, 20, 20, 20, 20, 20, None]
    spread = RetryPolicy(attempts=99, first_delay_s=10, factor=1, jitter=0.5)
    found = [spread.delay_s(n, ValueError(), seed="r") or 0 for n in range(1, 99)]
    assert 5 <= min(found) < 7
    assert 13 < max(found) <= 15
    assert found == [spread.delay_s(n, ValueError(), seed="r") for n in range(1, 99)]
