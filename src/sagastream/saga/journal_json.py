"""A saga's journal, and what is kept in it, as JSON."""

import json
from dataclasses import replace
from typing import Any, TypeVar, get_type_hints

from sagastream._codec.payload import decode_json, encode_payload
from sagastream._codec.validation import has_type
from sagastream.errors import SagaError, UnreadableJournal
from sagastream.message import Payload
from sagastream.saga.state import (
    JOURNAL_VERSION,
    PLAIN_JOURNAL_VERSION,
    Journal,
    JournalEntry,
)

MAX_JOURNAL_BYTES = 1024 * 1024
_LARGEST_TIME = 1e11  # in seconds since the Unix epoch, which is in three thousand years
_UNKNOWN = "?"
_DEFAULTS: dict[type, dict[str, Any]] = {
    Journal: {"entries": (), "trace": {}, "error": {}, "resumed": 0, "version": 1},
    JournalEntry: {"result": {}, "error": {}, "ended": None, "kind": "request"},
}

T = TypeVar("T")
_TYPES: dict[type, dict[str, Any]] = {
    kind: get_type_hints(kind) for kind in (Journal, JournalEntry)
}


def dump(journal: Journal) -> str:
    """The journal as JSON, with a byte 0x01, which JSON never has, for each time that is `NOW`.

    A field that has its default is left out.

    Its values were checked before they were added to it: no other number is infinite.

    Raises:
        SagaError: It is too large.
    """
    value = _changed(journal) | {"v": journal.v, "status": journal.status}
    value["entries"] = [_changed(entry) for entry in journal.entries]
    text = json.dumps(value, separators=(",", ":"))
    for name in ("started", "ended"):
        text = text.replace(f'"{name}":Infinity', f'"{name}":\x01')
    if len(text) > MAX_JOURNAL_BYTES:
        raise SagaError(
            f"the journal of saga {journal.saga_id} is {len(text)} bytes, more than the limit of "
            f"{MAX_JOURNAL_BYTES}; keep large results elsewhere and return references"
        )
    return text


def as_json(payload: Payload, field: str = "payload") -> dict[str, Any]:
    """A payload as it is kept in a journal: a model becomes a dict.

    Raises:
        InvalidMessage: It is not JSON, or too large.
    """
    text = encode_payload(payload, field=field, max_bytes=MAX_JOURNAL_BYTES)
    kept: dict[str, Any] = json.loads(text)
    return kept


def _changed(value: Journal | JournalEntry) -> dict[str, Any]:
    """The fields of a journal or an entry that do not have their defaults."""
    items = ((name, getattr(value, name)) for name in value.__slots__)
    defaults = _DEFAULTS[type(value)]
    return {name: item for name, item in items if name not in defaults or defaults[name] != item}


def load(text: str | bytes, *, saga_id: str = _UNKNOWN) -> Journal:
    """The inverse of `dump`; also reads schema version 1.

    Args:
        text: The journal as JSON.
        saga_id: The saga, for the error.

    Raises:
        UnreadableJournal: A newer release wrote it, or it is malformed.
    """
    try:
        value = decode_json(text)
        _check_version(saga_id, value["v"])
        entries = tuple(_checked(JournalEntry, entry) for entry in value.pop("entries"))
        journal = replace(_checked(Journal, value), entries=entries)
        _check_facts(saga_id, journal)
    except UnreadableJournal:
        raise
    except Exception as error:
        why = f"is malformed ({type(error).__name__}: {error})"[:200]
        raise UnreadableJournal(saga_id, 0, f"{why}; it is left unchanged") from error
    if journal.v == 1:
        failed = [e.error for e in entries if e.direction == "forward" and e.error]
        journal = replace(journal, error=failed[-1] if failed else {}, v=PLAIN_JOURNAL_VERSION)
    return journal


def _check_version(saga_id: str, version: Any) -> None:
    if type(version) is not int or version < 1:
        raise ValueError(f"v is {version!r}")
    if version > JOURNAL_VERSION:
        why = (
            f"has schema version {version}, and this release reads version {JOURNAL_VERSION} and "
            "older; use the release that wrote it, or a later one. It is left unchanged"
        )
        raise UnreadableJournal(saga_id, version, why)


def _check_facts(saga_id: str, journal: Journal) -> None:
    """Refuse what no release writes: the name of another saga, and times that are not times."""
    if saga_id not in {_UNKNOWN, journal.saga_id}:
        raise ValueError(f"saga_id is {journal.saga_id!r}")
    times = [journal.started, *(entry.started for entry in journal.entries)]
    times += [entry.ended for entry in journal.entries if entry.ended is not None]
    if not all(0.0 <= each < _LARGEST_TIME for each in times):
        raise ValueError("it has a time out of range")


def _checked(kind: type[T], fields: dict[str, Any]) -> T:
    for name, value in fields.items():
        if name in _TYPES[kind] and not has_type(value, _TYPES[kind][name]):
            raise TypeError(f"{name} is {value!r}")
    return kind(**fields)
