"""Journals of a newer release, and malformed ones: shown as such, left alone, and in nobody's way."""

import asyncio
import json
import logging
from typing import Any

import pytest

from sagastream import Bus, Command, Handler, Progress
from sagastream.errors import SagaError, UnreadableJournal
from sagastream.saga import Journal, Saga, SagaRunner, Step
from sagastream.saga.journal_json import dump
from tests.listeners import listening
from tests.plain_client import call
from tests.polling import eventually

pytestmark = pytest.mark.timeout(60)

STREAM = "trip:commands"
TRIP = Saga("trip", (Step("a", STREAM, "a:do", lambda data, _results: data),))
NEWER = json.dumps({"v": 4, "saga": "trip", "steps": "of another layout"})


async def _do(_command: Command, _progress: Progress) -> dict[str, Any]:
    return {}


HANDLERS = [Handler(STREAM, "a:do", _do)]


def _changed(**changed: Any) -> str:
    """A journal with changed fields; None removes one."""
    value = json.loads(dump(Journal("s", "trip", "c", {}, started=1.0))) | changed
    return json.dumps({name: field for name, field in value.items() if field is not None})


_ENTRY = {"step": "a", "direction": "forward", "attempt": 1, "request_id": "r", "payload": {}}
MALFORMED: dict[str, str | bytes] = {
    "not JSON": "{",
    "not UTF-8": b"\xff\xfe\x00",
    "nested too deep": "[" * 100_000,
    "not an object": "[]",
    "no version": _changed(v=None),
    "a version that is not a number": _changed(v="3"),
    "a missing field": _changed(correlation_id=None),
    "an unknown field": _changed(colour="red"),
    "a field of another type": _changed(started="yesterday"),
    "a time without end": _changed(started=1).replace('"started": 1', '"started": 1e999'),
    "an unknown status": _changed(status="asleep"),
    "a trace that is not text": _changed(trace={"traceparent": 1}),
    "entries that are not a list": _changed(entries=5),
    "an entry without its request": _changed(entries=[{"step": "a"}]),
    "an entry of another type": _changed(entries=[_ENTRY | {"attempt": "one"}]),
}


async def _store(bus: Bus, saga_id: str, journal: str | bytes) -> None:
    """Start a saga that is due at once, and replace its journal."""
    await SagaRunner(bus, TRIP).start({}, saga_id=saga_id)
    await call(bus, "HSET", f"saga:{saga_id}", "journal", journal)


async def _stored(bus: Bus, saga_id: str) -> tuple[Any, Any]:
    """What must not change: the journal with its version, and its moves."""
    journal = await call(bus, "HGETALL", f"saga:{saga_id}")
    return journal, await call(bus, "XRANGE", f"saga:{saga_id}:journal", "-", "+")


@pytest.mark.invariant(12)
async def test_a_newer_journal_is_listed_with_its_version(bus: Bus) -> None:
    """The list has it and the others; asked for by its id, the error names both versions."""
    await _store(bus, "newer", NEWER)
    runner = SagaRunner(bus, TRIP)
    await runner.start({}, saga_id="ours")
    found = {journal.saga_id: journal for journal in await runner.journals()}
    assert found["ours"].status == "running"
    error = {
        "error_type": "UnreadableJournal",
        "message": "the journal of saga newer has schema version 4, and this release reads version "
        "3 and older; use the release that wrote it, or a later one. It is left unchanged",
        "trace_id": "",
    }
    assert found["newer"] == Journal("newer", "trip", "", {}, "unreadable", error=error, v=4)
    with pytest.raises(SagaError, match=r"version 4, .* version 3 and older; use the release"):
        await runner.journal("newer")


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.invariant(14)
async def test_a_malformed_journal_hides_no_other(bus: Bus, kind: str) -> None:
    """It is listed as unreadable, and its error says what is wrong."""
    await _store(bus, "bad", MALFORMED[kind])
    runner = SagaRunner(bus, TRIP)
    await runner.start({}, saga_id="ours")
    found = {journal.saga_id: journal for journal in await runner.journals()}
    assert {saga_id: each.status for saga_id, each in found.items()} == {
        "ours": "running",
        "bad": "unreadable",
    }
    assert (found["bad"].v, found["bad"].started) == (0, 0.0)
    assert "is malformed (" in found["bad"].error["message"]
    assert len(found["bad"].error["message"]) < 300
    with pytest.raises(UnreadableJournal, match="bad is malformed"):
        await runner.journal("bad")


@pytest.mark.invariant(14)
async def test_keys_and_ids_of_others_hide_no_journal(bus: Bus) -> None:
    """A saga whose key has another type, and ids that are not names, are listed too."""
    runner = SagaRunner(bus, TRIP)
    await runner.start({}, saga_id="ours")
    await call(bus, "SET", "saga:text", "hello", "EX", 60)
    for member in ("text", "two words", b"\xff"):
        await call(bus, "ZADD", "sagas:trip:open", 1, member)
    found = {journal.saga_id: journal.status for journal in await runner.journals()}
    assert found.pop("ours") == "running"
    assert found == {"text": "unreadable", "two words": "unreadable"}


@pytest.mark.parametrize("is_dispatched", [False, True], ids=["alone", "dispatched"])
@pytest.mark.parametrize("journal", [NEWER, "{"], ids=["newer", "malformed"])
@pytest.mark.invariant(12)
async def test_serve_leaves_an_unreadable_journal_alone(
    bus: Bus, journal: str, is_dispatched: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It drives the others; this one is not moved, not dispatched, not dropped, and logged once."""
    # Due before the others, for several rounds.
    await _store(bus, "bad", journal)
    await call(bus, "ZADD", "sagas:trip:open", 1, "bad")
    before = await _stored(bus, "bad")
    dispatched: list[str] = []

    async def dispatch(saga_id: str, step: str) -> None:
        dispatched.append(saga_id)
        await runner.advance(saga_id, step)

    runner = SagaRunner(bus, TRIP, dispatch=dispatch if is_dispatched else None, wake_after_s=0.2)
    caplog.set_level(logging.WARNING, "sagastream.saga")
    async with listening(bus, HANDLERS):
        serving = asyncio.create_task(runner.serve())
        for number in range(5):
            await SagaRunner(bus, TRIP).start({}, saga_id=f"s{number}")
            assert (await runner.wait(f"s{number}")).status == "completed"
            due = await call(bus, "ZSCORE", "sagas:trip:open", "bad")

            async def is_taken_again(due: float = due) -> bool:
                return bool(await call(bus, "ZSCORE", "sagas:trip:open", "bad") > due)

            await eventually(is_taken_again, within_s=10, why="the saga was due again")
        assert not serving.done()
        serving.cancel()
        await asyncio.wait([serving])
    assert await _stored(bus, "bad") == before
    assert await runner.ids("open") == ["bad"]
    assert "bad" not in dispatched
    assert [r.getMessage()[:23] for r in caplog.records] == ["the journal of saga bad"]


@pytest.mark.invariant(12)
async def test_no_verb_moves_a_newer_journal(bus: Bus) -> None:
    """To advance, wake, compensate, resume, run or wait for it is an error, and changes nothing."""
    await _store(bus, "newer", NEWER)
    before = await _stored(bus, "newer")
    runner = SagaRunner(bus, TRIP)
    for refused in (
        runner.advance("newer"),
        runner.wake("newer"),
        runner.compensate("newer", "enough"),
        runner.resume("newer"),
        runner.run("newer"),
        runner.wait("newer"),
        runner.start({}, saga_id="newer"),
    ):
        with pytest.raises(UnreadableJournal) as error:
            await refused
        assert (error.value.saga_id, error.value.version) == ("newer", 4)
    assert await _stored(bus, "newer") == before
