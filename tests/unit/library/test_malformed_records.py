"""Records and journals that no release writes: each is named, and none is an error of Python."""

import json
from typing import Any

import pytest

from sagastream import Bus, ServerError
from sagastream._codec.payload import decode_json
from sagastream.errors import UnreadableJournal
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.saga.journal_json import load
from sagastream.status import request_status

_SAGA = Saga("trip", (Step("one", "a:commands", "a:b", lambda given, _results: given),))
_JOURNAL: dict[str, Any] = {
    "saga_id": "s",
    "saga": "trip",
    "correlation_id": "c",
    "input": {},
    "status": "running",
    "entries": [],
    "started": 1.0,
    "v": 2,
}


@pytest.mark.invariant(14)
@pytest.mark.parametrize("version", [None, "", "NaN", "1.5", "x", b"\xff"])
async def test_a_journal_without_a_version_is_unreadable(
    bus: Bus, version: str | bytes | None
) -> None:
    """By its id it is refused by name, in the list it hides no other."""
    key = bus.key("saga:s")
    await bus.command("HSET", key, "journal", json.dumps(_JOURNAL))
    if version is not None:
        await bus.command("HSET", key, "version", version)
    runner = SagaRunner(bus, _SAGA)
    with pytest.raises(UnreadableJournal, match="no number of its version"):
        await runner.journal("s")
    await bus.command("DEL", key)


@pytest.mark.invariant(14)
@pytest.mark.parametrize(
    "change",
    [
        *({"started": value} for value in ("NaN", "Infinity", "1e999", "-1", "1e300")),
        *({"input": value} for value in ('{"a":NaN}', '{"a":"\\ud800"}', "[" * 5000 + "]" * 5000)),
        {"saga_id": '"other"'},
        {"resumed": '"1"'},
    ],
)
def test_a_journal_with_odd_values_is_unreadable(change: dict[str, str]) -> None:
    """What cannot be shown as JSON is no value; the name of another saga is a mistake."""
    parts = {name: json.dumps(value) for name, value in _JOURNAL.items()} | change
    text = "{" + ",".join(f'"{name}":{value}' for name, value in parts.items()) + "}"
    with pytest.raises(UnreadableJournal):
        load(text, saga_id="s")


def test_a_journal_is_read_with_what_json_has() -> None:
    """Text of any language, escaped or not, and large numbers."""
    given = {"a": "\U0001f916 é", "b": 10**30, "c": 1.5}
    journal = load(json.dumps(_JOURNAL | {"input": given}), saga_id="s")
    assert journal.input == given
    assert decode_json(b'["\\ud83e\\udd16"]') == ["\U0001f916"]


@pytest.mark.invariant(14)
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("command", "", "request:r is a malformed record: correlation_id, event_type"),
        ("command", b"\x93NUMPY", "request:r is a malformed record: event_type"),
        ("layout", "x", "attempt to compare"),
    ],
)
async def test_a_malformed_record_is_an_error_of_the_server(
    bus: Bus, name: str, value: str | bytes, why: str
) -> None:
    """Which its callers expect; it names the record and what is missing."""
    await bus.emit_command("a:commands", event_type="a:b", payload={}, request_id="r")
    key = bus.key("request:r")
    await bus.command("HSET", key, name, value)
    with pytest.raises(ServerError, match=why):
        await request_status(bus, "r")
    await bus.command("DEL", key)
