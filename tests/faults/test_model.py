"""The server's functions against the pure model, and the model against message disorder."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sagastream import Retention, UnknownLayout
from sagastream._functions.answers import EmitAnswer, Wait
from sagastream._functions.library import LIBRARY, RECORD_LAYOUT, SOURCE
from sagastream._functions.requests import RequestFunctions
from sagastream._functions.streams import StreamFunctions
from sagastream._redis.deadline import Deadline
from sagastream._redis.protocol import error_of
from tests.faults.model import TERMINAL, NewerLayout, Request
from tests.faults.report import Report
from tests.records import read_record

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(900)]

_TOKENS = st.sampled_from(["a", "b", "c", "d", "e"])
_UNLIMITED_MS = 10**9
_UNLIMITED = Retention(result_s=10**6, remember_s=10**6)
_GROUP, _STREAM, _RECORD, _REPLIES = "g", "work:commands", "request:r", "replies:me"
_MAX_DELIVERIES = 3
_UNTRACED = ("", "", "")
_LOOP = asyncio.new_event_loop()


T = TypeVar("T")


class _Direct:
    """A connection of redis-py, with the interface of the library's connection."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def call(self, *args: Any, **_options: Any) -> Any:
        try:
            return self._client.execute_command(*args)
        except redis.ResponseError as error:
            raise error_of(str(error)) from error

    def timed_out(self, deadline: Deadline) -> Exception:
        raise AssertionError(deadline)

    def post(self, args: tuple[Any, ...], receive: Callable[[Any], None], **_options: Any) -> None:
        receive(self._client.execute_command(*args))


class Server:
    """The transitions of the model, on a real server."""

    def __init__(self, client: Any) -> None:
        self._client = client
        client.flushall()
        client.function_load(SOURCE, replace=True)
        client.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)

        self._functions = RequestFunctions(_Direct(client), retention=_UNLIMITED)
        self._streams = StreamFunctions(_Direct(client), retention=_UNLIMITED)
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
                ("c", "r", "", "work:do", payload, "", "1", *_UNTRACED),
                reply_streams=[_REPLIES],
            )
        )
        for _, entries in self._client.xreadgroup(_GROUP, "c", {_STREAM: ">"}):
            self.entry_id = entries[0][0].decode()
        assert isinstance(answer, EmitAnswer)
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
                retention=_UNLIMITED,
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
                retention=_UNLIMITED,
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

    def supersede(self, undo: str) -> None:
        self._answer(
            lambda: self._functions.emit(
                f"request:{undo}",
                "undo:commands",
                ("c", undo, "", "work:undo", "{}", "", "1", *_UNTRACED),
                reply_streams=[],
                supersedes=[_RECORD],
            )
        )

    def holds(self, undo: str) -> bool:
        """Return whether the claim of an undo has to wait."""
        entry_id = read_record(self._client, undo)["entry_id"]
        answer = self._answer(
            lambda: self._functions.begin(
                f"request:{undo}",
                "undo:commands",
                group=_GROUP,
                entry_id=entry_id,
                consumer="undoer",
                token="undo",
                lease_ms=_UNLIMITED_MS,
                retention=_UNLIMITED,
                max_deliveries=_MAX_DELIVERIES,
                trace=_UNTRACED,
            )
        )
        return isinstance(answer, Wait)

    def reject(self) -> str:
        answer = self._answer(
            lambda: self._streams.reject(
                _STREAM,
                f"{_STREAM}:dead",
                _RECORD,
                _REPLIES,
                group=_GROUP,
                entry_id=self.entry_id,
                letter=["payload", "{}"],
                reply={"request_id": "r", "status": "failed", "payload": "{}"},
            )
        )
        return "done" if answer.is_done else "ok"

    def set_newer(self, newer: bool) -> None:
        layout = 99 if newer else RECORD_LAYOUT
        if self._client.type(_RECORD) == b"string":
            self._client.setrange(_RECORD, 1, bytes([layout]))
        else:
            self._client.hset(_RECORD, "layout", str(layout))

    def cancel(self) -> str:
        answer = self._answer(lambda: self._functions.cancel(_RECORD, trace=_UNTRACED))
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


def _ranked(stages: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Stages with the rank of their epoch: those of the server are times."""
    epochs = sorted({epoch for _, epoch in stages})
    return [(status, epochs.index(epoch)) for status, epoch in stages]


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
        self.undo, self.waits = "", False
        self.has_undone = False

    def _agree(self, on_server: Callable[[], Any], on_model: Callable[[], Any]) -> Any:
        """Both give the same answer, or both refuse a record of a newer release."""
        try:
            expected = on_model()
        except NewerLayout:
            with pytest.raises(UnknownLayout):
                on_server()
            return None
        assert on_server() == expected
        return expected

    @rule(payload=st.sampled_from(["{}", '{"a":1}']))
    def emit(self, payload: str) -> None:
        self._agree(lambda: self.server.emit(payload), lambda: self.model.emit(payload))

    @rule(token=_TOKENS, lapses=st.booleans())
    def begin(self, token: str, lapses: bool) -> None:
        if self.model.entries:
            assert self.model.payload is not None
            self._agree(
                lambda: self.server.begin(token, lapses=lapses),
                lambda: self.model.begin(token, lapses=lapses),
            )

    @rule(token=_TOKENS, seq=st.integers(1, 4))
    def progress(self, token: str, seq: int) -> None:
        self._agree(
            lambda: self.server.progress(token, seq), lambda: self.model.progress(token, seq)
        )

    @rule(token=_TOKENS, status=st.sampled_from(sorted(TERMINAL)))
    def finish(self, token: str, status: str) -> None:
        self._agree(
            lambda: self.server.finish(token, status), lambda: self.model.finish(token, status)
        )

    @rule(token=_TOKENS)
    def renew(self, token: str) -> None:
        if self.model.payload is not None:
            self._agree(lambda: self.server.renew(token), lambda: self.model.renew(token))

    @rule(token=_TOKENS)
    def release(self, token: str) -> None:
        self._agree(lambda: self.server.release(token), lambda: self.model.release(token))

    @rule(times=st.integers(1, 6))
    def give_back_again_and_again(self, times: int) -> None:
        for number in range(times):
            self.begin(f"again{number}", lapses=False)
            self.release(f"again{number}")

    @rule()
    def supersede(self) -> None:
        if self.model.payload is not None and not self.undo:
            undo = f"u{len(self.model.stages)}"

            def on_server() -> None:
                self.server.supersede(undo)
                self.undo, self.waits = undo, self.model.held

            self._agree(on_server, self.model.supersede)

    @rule()
    def begin_undo(self) -> None:
        if self.undo and not self.has_undone:
            if self.waits and self.model.newer:
                # Whether the handler of the other request has ended is in a record of a newer release.
                with pytest.raises(UnknownLayout):
                    self.server.holds(self.undo)
                return
            assert self.server.holds(self.undo) == self.model.holds
            self.has_undone = not self.model.holds

    @rule()
    def reject(self) -> None:
        if self.model.payload is not None:
            self._agree(self.server.reject, self.model.reject)

    @rule(newer=st.booleans())
    def another_release(self, newer: bool) -> None:
        if self.model.payload is not None:
            self.server.set_newer(newer)
            self.model.newer = newer

    @rule()
    def cancel(self) -> None:
        self._agree(self.server.cancel, self.model.cancel)

    @invariant()
    def states_are_equal(self) -> None:
        Agreement.calls += 1
        pending = self.model.entries and not self.model.acked
        assert _ranked(self.server.stages()) == _ranked(self.model.stages)
        assert self.server.counts() == (self.model.entries, int(pending), self.model.dead)


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


class Schedule:
    """Requesters, handlers and a network that repeats, drops, delays and reorders messages.

    Each handler follows the protocol; its messages may be late, repeated or lost, and its lease
    may lapse at any time. Another request may supersede this one and undo it; a newer release
    may write the record for a while; an entry that cannot be begun is rejected.

    Attributes:
        request: The request.
        early_undos: How many times the undo began while a handler with a lease still acted.
    """

    def __init__(self, seed: int) -> None:
        self.request = Request(max_deliveries=_MAX_DELIVERIES)
        self.early_undos = 0
        self._rng = random.Random(seed)
        self._sent: list[tuple[str, ...]] = [("emit",)] * self._rng.randint(1, 3)
        for message, chance in ((("cancel",), 0.3), (("supersede",), 0.3), (("reject",), 0.05)):
            if self._rng.random() < chance:
                self._sent.append(message)
        self._acting: str | None = None
        self._handlers = 0

    def run(self) -> None:
        """Deliver messages until the request has ended and none is left."""
        rng, request = self._rng, self.request
        for _ in range(400):
            if request.ended and not self._sent:
                break
            if rng.random() < 0.2 and request.entries and not request.ended and self._handlers < 40:
                request.leased = request.leased and rng.random() < 0.5
                self._sent.append(("begin", f"t{self._handlers}"))
                self._handlers += 1
            request.newer = (request.newer and rng.random() < 0.7) or rng.random() < 0.02
            if not self._sent:
                continue
            message = self._sent.pop(rng.randrange(len(self._sent)))
            fate = rng.random()
            if fate < 0.15:
                if message[0] in {"emit", "begin", "supersede", "undo"}:
                    self._sent.append(message)  # the sender repeats a message without an answer
                continue
            if fate < 0.3:
                self._sent.append(message)
            try:
                self._deliver(message)
            except NewerLayout:
                self._sent.append(message)  # it is given back, or the newer release takes it

    def _deliver(self, message: tuple[str, ...]) -> None:
        """Deliver one message; a handler whose claim succeeds sends its next messages."""
        request = self.request
        match message:
            case ("emit",):
                request.emit("{}")
            case ("cancel",):
                request.cancel()
            case ("supersede",):
                request.supersede()
                self._sent.append(("undo",))
            case ("undo",):
                if request.holds:
                    self._sent.append(message)  # it waits, and is tried again
                elif self._acting == request.token and request.leased:
                    self.early_undos += 1
            case ("reject",):
                if request.entries and request.epoch == 0 and not request.newer:
                    request.reject()
            case ("begin", token):
                if request.entries and request.begin(token, lapses=False) == "claimed":
                    self._acting = token
                    self._sent += [("progress", token, str(n)) for n in (1, 2)]
                    end = self._rng.choice([("finish", token, "completed"), ("release", token)])
                    self._sent.append(end)
            case ("progress", token, seq):
                request.progress(token, int(seq))
            case ("finish", token, status):
                request.finish(token, status)
                self._ended(token)
            case ("release", token):
                request.release(token)
                self._ended(token)

    def _ended(self, token: str) -> None:
        if self._acting == token:
            self._acting = None


@pytest.mark.invariant(3)
def test_message_disorder_breaks_no_guarantee(report: Report, is_long: bool) -> None:
    """In each schedule there is at most one terminal stage, none after it, and epochs grow.

    No undo begins while a handler with a lease acts, and there is at most one dead letter.
    """
    schedules = 1_000_000 if is_long else 10_000
    row = report.row("the model: reordered, repeated, dropped, delayed (schedules)")
    ended = 0
    for seed in range(schedules):
        schedule = Schedule(seed)
        schedule.run()
        done = schedule.request
        statuses = [status for status, _ in done.stages]
        epochs = [epoch for _, epoch in done.stages]
        ends = [status for status in statuses if status in TERMINAL]
        starts = [epoch for status, epoch in done.stages if status == "start"]
        doubled = max(0, len(ends) - 1) + len(starts) - len(set(starts))
        doubled += max(0, done.entries - 1) + max(0, done.dead - 1)
        is_late = bool(ends) and statuses[-1] != ends[0]
        disorder = epochs != sorted(epochs) or is_late or schedule.early_undos > 0
        row.tries += 1
        row.doubled += doubled
        row.out_of_order += disorder
        assert not doubled, f"seed {seed}: {done.stages}"
        assert not disorder, f"seed {seed}: {done.stages}"
        ended += bool(ends)
    assert ended > schedules * 0.9, "too few requests ended: the schedules are too hostile"
