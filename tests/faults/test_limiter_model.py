"""The server's limiters and fair queues against the pure model."""

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sagastream._functions.library import LIBRARY, SOURCE
from tests.faults.limiter_model import Stream
from tests.faults.report import Report
from tests.records import read_record

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(900)]

_STREAM, _GROUP = "work:commands", "g"
_MOST = 8
# The limiters of a request, in the order of its permits: name with its key, count, interval in ms.
# No token of the rate comes back while the test runs.
_LIMITS = {"limit work:do key={key}": 1, "limit work:do": 2, "rate work:do": 4}
_INTERVAL_MS = 10**12
_LEASE_MS = 10**9
_RETENTION = ("1000000000", "1000000000", "", "")

_numbers = st.integers(0, 20)
_tokens = st.sampled_from(["t1", "t2"])
# The token of its claim, or that of another one.
_claims = st.sampled_from(["own", "own", "own", "t1", "t2"])
_turns = st.none() | st.tuples(
    st.integers(1, 3), st.sampled_from([1.0, 2.0]), st.sampled_from(["x", "y"])
)
_targets = st.sampled_from(["*", "work:do", "key=a", "fairness_key=x"])


class Server:
    """The transitions of the model, on a real server."""

    def __init__(self, client: Any) -> None:
        self._client = client
        client.flushall()
        client.function_load(SOURCE, replace=True)
        client.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)

    def _call(self, function: str, keys: list[str], *args: Any) -> Any:
        return self._client.fcall(f"{LIBRARY}_{function}", len(keys), *keys, *args)

    def _batched(self, function: str, name: str, shared: tuple[Any, ...], *own: Any) -> list[Any]:
        keys = [f"request:{name}", _STREAM]
        (answer,) = self._call(function, keys, *shared, len(own), *own)
        return [part.decode() if isinstance(part, bytes) else part for part in answer]

    def _deliver(self) -> None:
        self._client.xreadgroup(_GROUP, "consumer", {_STREAM: ">"})

    def entry_of(self, name: str) -> str:
        return read_record(self._client, name)["entry_id"]

    def emit(self, name: str, key: str, turn: tuple[int, float, str] | None) -> None:
        entry = ("c", name, "", "work:do", f'{{"key":"{key}"}}', "", "1", "", "", "")
        options = ("turn", "{}\n{}\n{}".format(*turn)) if turn else ()
        answer = self._batched("emit", name, _RETENTION[:2], *entry, "", "", "digest88", *options)
        assert answer[0] == "new", answer
        self._deliver()

    def begin(self, name: str, key: str, token: str, *, lapses: bool) -> str:
        limits = []
        for kind, count in _LIMITS.items():
            interval = _INTERVAL_MS if kind.startswith("rate") else 0
            limits += [kind.format(key=key), count, interval]
        shared = (_GROUP, "consumer", 0 if lapses else _LEASE_MS, 100, *_RETENTION)
        own = (self.entry_of(name), token, "", "", "", *limits)
        answer = self._batched("begin", name, shared, *own)
        self._deliver()
        return f"limited {answer[1]}" if answer[0] == "limited" else str(answer[0])

    def finish(self, name: str, token: str) -> str:
        own = (self.entry_of(name), token, "completed", "{}", "", "", "")
        answer = self._batched("finish", name, (_GROUP, *_RETENTION), *own)
        self._deliver()
        return str(answer[0])

    def release(self, name: str, token: str) -> str:
        keys = [f"request:{name}", _STREAM]
        answer = self._call("release", keys, _GROUP, self.entry_of(name), "consumer", token, 0)
        self._deliver()
        return "ok" if answer[0] == b"ok" else "not owned"

    def renew(self, name: str, token: str) -> str:
        keys = [f"request:{name}", _STREAM]
        entry_id = self.entry_of(name)
        answer = self._call("renew", keys, _LEASE_MS, _GROUP, "consumer", token, entry_id)
        return str(answer[0].decode())

    def cancel(self, name: str) -> str:
        answer = self._call("cancel", [f"request:{name}"], *_RETENTION[:2], "", "", "")
        self._deliver()
        return str(answer[0].decode())

    def pause(self, target: str) -> None:
        self._call("pause", [_STREAM], target, "{}")

    def resume(self, target: str) -> None:
        self._call("resume", [_STREAM], target)
        self._deliver()

    def state_of(self, name: str) -> tuple[str, str]:
        """Its status, and the limiter that it waits for."""
        record = read_record(self._client, name)
        return record["status"], record["waits"]

    def entries(self, names: set[str]) -> list[str]:
        """Those of these requests that are in the stream, in order."""
        found = [fields[b"request_id"].decode() for _, fields in self._client.xrange(_STREAM)]
        return [name for name in found if name in names]

    def queues(self) -> dict[str, list[list[str]]]:
        """Who waits in each limiter's queue, for each class."""
        found: dict[str, list[list[str]]] = {}
        for key in self._client.scan_iter(f"{_STREAM}:limit:*:queue:*"):
            name, _, number = key.decode().removeprefix(f"{_STREAM}:limit:").rpartition(":queue:")
            waiting = [
                each.decode().removeprefix("request:") for each in self._client.zrange(key, 0, -1)
            ]
            found.setdefault(name, [[], [], []])[int(number) - 1] = waiting
        return found

    def permits(self) -> dict[str, set[str]]:
        """Who has a permit of each limiter."""
        found = {}
        for key in self._client.scan_iter(f"{_STREAM}:limit:*:permits"):
            name = key.decode().removeprefix(f"{_STREAM}:limit:").removesuffix(":permits")
            found[name] = {
                each.decode().removeprefix("request:") for each in self._client.zrange(key, 0, -1)
            }
        return found


class Agreement(RuleBasedStateMachine):
    """In any order of calls, server and model give the same answers and have the same state."""

    client: "redis.Redis"
    sequences = 0
    limited = 0

    def __init__(self) -> None:
        super().__init__()
        Agreement.sequences += 1
        self.server = Server(self.client)
        self.model = Stream(dict(_LIMITS))

    def _one_of(self, number: int, *statuses: str) -> str:
        """One of the requests with these statuses, '' if there is none."""
        found = [name for name, work in self.model.works.items() if work.status in statuses]
        return found[number % len(found)] if found else ""

    def _token(self, name: str, claim: str) -> str:
        return (self.model.works[name].token or "t1") if claim == "own" else claim

    @rule(key=st.sampled_from(["a", "b"]), turn=_turns)
    def emit(self, key: str, turn: tuple[int, float, str] | None) -> None:
        if len(self.model.works) < _MOST:
            name = f"r{len(self.model.works)}"
            self.server.emit(name, key, turn)
            self.model.emit(name, key, turn)

    @rule(number=_numbers, token=_tokens, lapses=st.sampled_from([False, False, True]))
    def begin(self, number: int, token: str, lapses: bool) -> None:
        works = self.model.works
        found = [name for name in self.model.entries if works[name].status != "cancelled"]
        if found:
            name = found[number % len(found)]
            work = works[name]
            expected = self.model.begin(name, token, lapses=lapses)
            assert self.server.begin(name, work.key, token, lapses=lapses) == expected
            Agreement.limited += expected.startswith("limited")

    @rule()
    def begin_all(self) -> None:
        for number in range(len(self.model.entries)):
            self.begin(number, "t1", lapses=False)

    @rule(number=_numbers, claim=_claims)
    def finish(self, number: int, claim: str) -> None:
        if name := self._one_of(number, "running", "completed"):
            token = self._token(name, claim)
            expected = self.model.finish(name, token)
            assert self.server.finish(name, token) == expected

    @rule(number=_numbers, claim=_claims)
    def release(self, number: int, claim: str) -> None:
        if name := self._one_of(number, "running", "completed"):
            token = self._token(name, claim)
            expected = self.model.release(name, token)
            assert self.server.release(name, token) == expected

    @rule(number=_numbers, claim=_claims)
    def renew(self, number: int, claim: str) -> None:
        if name := self._one_of(number, "running", "completed"):
            token = self._token(name, claim)
            expected = self.model.renew(name, token)
            assert self.server.renew(name, token) == expected

    @rule(number=_numbers)
    def cancel(self, number: int) -> None:
        if name := self._one_of(number, "pending", "completed", "cancelled"):
            expected = self.model.cancel(name)
            assert self.server.cancel(name) == expected

    @rule(what=_targets)
    def pause(self, what: str) -> None:
        self.server.pause(what)
        self.model.pause(what)

    @rule(what=_targets)
    def resume(self, what: str) -> None:
        self.server.resume(what)
        self.model.resume(what)

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        running = [each for each in self.model.works.values() if each.status == "running"]
        current = [each for each in running if each.leased]
        assert len(current) <= 2
        for key in ("a", "b"):
            assert sum(each.key == key for each in current) <= 1
        assert sum(each.attempts for each in self.model.works.values()) <= 4

    @invariant()
    def states_are_equal(self) -> None:
        open_names = set()
        for name, work in self.model.works.items():
            status, waits = self.server.state_of(name)
            assert (status, waits) == (work.status, work.waits), name
            if work.status in {"pending", "running"}:
                open_names.add(name)
        expected = [name for name in self.model.entries if name in open_names]
        assert self.server.entries(open_names) == expected
        queues = {
            name: [[each for _, each in queue.waiting[number]] for number in (1, 2, 3)]
            for name, queue in self.model.queues.items()
            if queue
        }
        assert self.server.queues() == queues
        permits = {name: holders for name, holders in self.model.permits.items() if holders}
        assert self.server.permits() == permits

    @invariant()
    def what_can_go_on_does(self) -> None:
        """None waits for a limiter with a free permit: nothing would let it in."""
        for name, queue in self.model.queues.items():
            if queue and not name.startswith("paused"):
                assert self.model.is_full(name), name


@pytest.mark.invariant(3)
def test_the_limiters_conform_to_the_model(
    client: "redis.Redis", report: Report, is_long: bool
) -> None:
    """In random sequences of all transitions: no limit is exceeded, and none waits for nothing."""
    Agreement.client = client
    run_state_machine_as_test(
        Agreement,
        settings=settings(
            max_examples=1500 if is_long else 60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    row = report.row("limiters against the pure model, sequences of up to 40 calls")
    row.tries = Agreement.sequences
    row.notes["requests that had to wait"] = f"{Agreement.limited:,}"
    assert Agreement.limited > 0
