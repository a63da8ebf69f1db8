"""The server's functions against the pure model, and the model against message disorder."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sagastream._functions.library import LIBRARY, SOURCE
from sagastream._functions.requests import RequestFunctions
from sagastream.testing import EmbeddedServer
from tests.faults.model import TERMINAL, Request
from tests.faults.report import Report

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(900)]

_TOKENS = st.sampled_from(["a", "b", "c", "d", "e"])
_UNLIMITED_MS = 10**9
_GROUP, _STREAM, _RECORD, _REPLIES = "g", "work:commands", "request:r", "replies:me"
_MAX_DELIVERIES = 3
_UNTRACED = ("", "", "")
_LOOP = asyncio.new_event_loop()


T = TypeVar("T")


class _Direct:
    """A connection of redis-py, with the interface of the library's connection."""

    is_idle = True

    def __init__(self, client: Any) -> None:
        self._client = client

    async def call(self, *args: Any, **_options: Any) -> Any:
        return self._client.execute_command(*args)

    def post(self, args: tuple[Any, ...], receive: Callable[[Any], None], **_options: Any) -> None:
        receive(self._client.execute_command(*args))


class Server:
    """The transitions of the model, on a real server."""

    def __init__(self, client: Any) -> None:
        self._client = client
        client.flushall()
        client.function_load(SOURCE, replace=True)
        client.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)

        self._functions = RequestFunctions(_Direct(client), reply_ttl_ms=_UNLIMITED_MS)
        self.entry_id = "0-0"

    @staticmethod
    def _answer(call: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of a function."""

        async def answer() -> T:
            return await call()

        return _LOOP.run_until_complete(answer())

    def emit(self, payload: str) -> str:
        answer = self._answer(
            lambda: self._functions.emit(
                _RECORD,
                _STREAM,
                "sagastream:instance",
                ("c", "r", "", "work:do", payload, "", "1", *_UNTRACED),
                reply_streams=[_REPLIES],
            )
        )
        for _, entries in self._client.xreadgroup(_GROUP, "c", {_STREAM: ">"}):
            self.entry_id = entries[0][0].decode()
        return answer.outcome

    def begin(self, token: str, *, lapses: bool) -> str:
        answer = self._answer(
            lambda: self._functions.begin(
                _RECORD,
                _STREAM,
                group=_GROUP,
                entry_id=self.entry_id,
                consumer=f"consumer-{token}",
                token=token,
                lease_ms=0 if lapses else _UNLIMITED_MS,
                retention_ms=_UNLIMITED_MS,
                max_deliveries=_MAX_DELIVERIES,
                trace=_UNTRACED,
            )
        )
        return type(answer).__name__.lower()

    def progress(self, token: str, seq: int) -> str:
        answer = self._answer(
            lambda: self._functions.progress(
                _RECORD, _STREAM, "{}", token=token, seq=seq, trace=_UNTRACED
            )
        )
        return "stale" if answer.is_stale else "ok"

    def finish(self, token: str, status: str) -> str:
        answer = self._answer(
            lambda: self._functions.finish(
                _RECORD,
                _STREAM,
                status,
                "{}",
                group=_GROUP,
                entry_id=self.entry_id,
                token=token,
                retention_ms=_UNLIMITED_MS,
                trace=_UNTRACED,
            )
        )
        return answer.outcome

    def renew(self, token: str) -> str:
        answer = self._client.execute_command(
            *("FCALL", f"{LIBRARY}_renew", 2, _RECORD, _STREAM),
            *(_UNLIMITED_MS, _GROUP, f"consumer-{token}", token, self.entry_id),
        )
        return str(answer[0].decode())

    def release(self, token: str) -> str:
        answer = self._answer(
            lambda: self._functions.release(
                _RECORD,
                _STREAM,
                group=_GROUP,
                entry_id=self.entry_id,
                consumer=f"consumer-{token}",
                token=token,
                idle_ms=0,
            )
        )
        return answer.outcome

    def cancel(self) -> str:
        answer = self._answer(
            lambda: self._functions.cancel(
                _RECORD, retention_ms=_UNLIMITED_MS, wakeup_prefix="listener:", trace=_UNTRACED
            )
        )
        return answer.status

    def stages(self) -> list[tuple[str, int]]:
        return [
            (fields[b"status"].decode(), int(fields[b"epoch"]))
            for _, fields in self._client.xrange(_REPLIES)
        ]

    def counts(self) -> tuple[int, int, int]:
        """Return the number of entries, of pending entries, and of dead letters."""
        pending = self._client.xpending(_STREAM, _GROUP)["pending"]
        return self._client.xlen(_STREAM), pending, self._client.xlen(f"{_STREAM}:dead")


class Agreement(RuleBasedStateMachine):
    """In any order of calls, server and model give the same answers and have the same state."""

    client: "redis.Redis"
    sequences = 0
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        Agreement.sequences += 1
        self.server = Server(self.client)
        self.model = Request(max_deliveries=_MAX_DELIVERIES)

    @rule(payload=st.sampled_from(["{}", '{"a":1}']))
    def emit(self, payload: str) -> None:
        assert self.server.emit(payload) == self.model.emit(payload)

    @rule(token=_TOKENS, lapses=st.booleans())
    def begin(self, token: str, lapses: bool) -> None:
        if self.model.entries:
            assert self.model.payload is not None
            word = self.server.begin(token, lapses=lapses)
            assert word == self.model.begin(token, lapses=lapses)

    @rule(token=_TOKENS, seq=st.integers(1, 4))
    def progress(self, token: str, seq: int) -> None:
        assert self.server.progress(token, seq) == self.model.progress(token, seq)

    @rule(token=_TOKENS, status=st.sampled_from(sorted(TERMINAL)))
    def finish(self, token: str, status: str) -> None:
        assert self.server.finish(token, status) == self.model.finish(token, status)

    @rule(token=_TOKENS)
    def renew(self, token: str) -> None:
        if self.model.payload is not None:
            assert self.server.renew(token) == self.model.renew(token)

    @rule(token=_TOKENS)
    def release(self, token: str) -> None:
        assert self.server.release(token) == self.model.release(token)

    @rule()
    def cancel(self) -> None:
        assert self.server.cancel() == self.model.cancel()

    @invariant()
    def states_are_equal(self) -> None:
        Agreement.calls += 1
        pending = self.model.entries and not self.model.acked
        assert self.server.stages() == self.model.stages
        assert self.server.counts() == (self.model.entries, int(pending), self.model.dead)


@pytest.fixture
def client(store: EmbeddedServer) -> Iterator["redis.Redis"]:
    """A connection to the server."""
    with redis.Redis.from_url(store.url) as made:
        yield made


@pytest.mark.invariant(3)
def test_the_server_conforms_to_the_model(
    client: "redis.Redis", report: Report, is_long: bool
) -> None:
    """In random sequences of all transitions each answer and each state is the model's."""
    examples = 2000 if is_long else 60
    Agreement.client = client
    run_state_machine_as_test(
        Agreement,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    row = report.row("server's functions against the pure model, sequences of up to 30 calls")
    row.tries = Agreement.sequences
    row.notes["calls compared"] = f"{Agreement.calls:,}"


def _deliver(
    request: Request,
    message: tuple[str, ...],
    sent: list[tuple[str, ...]],
    rng: random.Random,
) -> None:
    """Deliver one message; a handler whose claim succeeds sends its next messages."""
    match message:
        case ("emit",):
            request.emit("{}")
        case ("cancel",):
            request.cancel()
        case ("begin", token):
            if request.entries and request.begin(token, lapses=False) == "claimed":
                sent += [("progress", token, str(n)) for n in (1, 2)]
                sent.append(rng.choice([("finish", token, "completed"), ("release", token)]))
        case ("progress", token, seq):
            request.progress(token, int(seq))
        case ("finish", token, status):
            request.finish(token, status)
        case ("release", token):
            request.release(token)


def _run_schedule(seed: int) -> Request:
    """Run requesters, handlers and a network that repeats, drops, delays and reorders messages.

    Each handler follows the protocol; its messages may be late, repeated or lost, and its lease
    may lapse at any time.
    """
    rng = random.Random(seed)
    request = Request(max_deliveries=_MAX_DELIVERIES)
    sent: list[tuple[str, ...]] = [("emit",)] * rng.randint(1, 3)
    if rng.random() < 0.3:
        sent.append(("cancel",))
    handlers = 0
    for _ in range(400):
        if request.ended and not sent:
            break
        if rng.random() < 0.2 and request.entries and not request.ended and handlers < 40:
            request.leased = request.leased and rng.random() < 0.5
            sent.append(("begin", f"t{handlers}"))
            handlers += 1
        if not sent:
            continue
        message = sent.pop(rng.randrange(len(sent)))
        fate = rng.random()
        if fate < 0.15:
            if message[0] in {"emit", "begin"}:
                sent.append(message)  # the sender repeats a message without an answer
            continue
        if fate < 0.3:
            sent.append(message)
        _deliver(request, message, sent, rng)
    return request


@pytest.mark.invariant(3)
def test_message_disorder_breaks_no_guarantee(report: Report, is_long: bool) -> None:
    """In each schedule there is at most one terminal stage, none after it, and epochs grow."""
    schedules = 1_000_000 if is_long else 10_000
    row = report.row("the model: reordered, repeated, dropped, delayed (schedules)")
    ended = 0
    for seed in range(schedules):
        done = _run_schedule(seed)
        statuses = [status for status, _ in done.stages]
        epochs = [epoch for _, epoch in done.stages]
        ends = [status for status in statuses if status in TERMINAL]
        starts = [epoch for status, epoch in done.stages if status == "start"]
        doubled = max(0, len(ends) - 1) + len(starts) - len(set(starts)) + max(0, done.entries - 1)
        disorder = epochs != sorted(epochs) or (ends and statuses[-1] != ends[0])
        row.tries += 1
        row.doubled += doubled
        row.out_of_order += bool(disorder)
        assert not doubled, f"seed {seed}: {done.stages}"
        assert not disorder, f"seed {seed}: {done.stages}"
        ended += bool(ends)
    assert ended > schedules * 0.9, "too few requests ended: the schedules are too hostile"
