"""The answers of the server's functions, each a frozen value with its own type.

A function answers with a list: a word, and the values that belong to it. `parse` methods read
that list. They do not check it, because stub and Lua belong to one release.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from sagastream.errors import ServerError

# What `inspect` reports of a record, and which of it are numbers.
_OF_RECORDS = frozenset(
    {
        *("status", "epoch", "attempts", "entry_id", "consumer", "lease_until", "seq", "cancel"),
        *("context", "correlation_id", "saga_id", "event_type", "stream", "timestamp", "payload"),
        *("followed", "effect", "traceparent", "tracestate", "parent_span_id"),
    }
)
_NUMBERS = ("epoch", "attempts", "failures", "due", "lease_until", "seq")
_MAX_DIGITS = 20


def texts(parts: Sequence[Any]) -> list[str]:
    """The parts of an answer as text."""
    return [part.decode() if isinstance(part, bytes) else str(part) for part in parts]


@dataclass(frozen=True, slots=True)
class Expired:
    """The request has ended, and its result is no longer kept.

    Attributes:
        status: The status with which it ended.
        ended_s: When, in seconds since the Unix epoch.
    """

    status: str
    ended_s: int

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        _, status, ended_s = texts(parts)
        return cls(status, int(ended_s))


def parse_record(key: str, parts: Sequence[Any]) -> dict[str, str]:
    """Read the fields of a record that `inspect` found.

    Raises:
        ServerError: They are not those of a record.
    """
    values = [
        part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in parts
    ]
    record = dict(zip(values[::2], values[1::2], strict=False))
    bad = sorted(_OF_RECORDS - record.keys())
    bad += [name for name in _NUMBERS if not _is_number(record.get(name, ""))]
    if bad:
        raise ServerError("MALFORMED", f"{key} is a malformed record: {', '.join(bad)}")
    if not _is_number(record["timestamp"]):
        record["timestamp"] = "0"
    return record


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS


@dataclass(frozen=True, slots=True)
class EmitAnswer:
    """What `emit` did.

    Attributes:
        outcome: `new`; `known`, the same request was emitted before; or `conflict`, its id was
            used with another payload, event type or stream.
        entry_id: The command's entry.
        counter: How many commands the server has counted; 0 if this one is not new.
    """

    outcome: Literal["new", "known", "conflict"]
    entry_id: str
    counter: int


def parse_emit(parts: Sequence[Any]) -> EmitAnswer | Expired:
    """Read the answer of `emit`."""
    word, entry_id, counter = parts
    if word == b"expired":
        return Expired.parse(parts)
    return EmitAnswer(word.decode(), entry_id.decode(), int(counter))


@dataclass(frozen=True, slots=True)
class AdoptAnswer:
    """What `adopt` did.

    Attributes:
        outcome: `adopted`; `done`, the request has ended or another entry answers for it; or
            `conflict`, its id was used with another payload or event type.
        status: The request's status; '' unless `done`.
    """

    outcome: Literal["adopted", "done", "conflict"]
    status: str = ""

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        return cls(*cast("Any", texts(parts)))


@dataclass(frozen=True, slots=True)
class Claimed:
    """The claim has the request.

    Attributes:
        epoch: The fencing token; a later claim has a higher one.
        now_ms: The server's time.
        attempt: Which claim of the request this is, from 1.
        failures: How many of its attempts have failed.
        effect: The effect policy that the handler must declare, '' for any.
        last_progress: The payload of the last progress stage, '' if there is none.
        lost_span: The span of a handler that was killed, '' if there is none.
        context: What other propagators than W3C Trace Context carry, '' if nothing.
    """

    epoch: int
    now_ms: int
    attempt: int = 1
    failures: int = 0
    effect: str = ""
    last_progress: str = ""
    lost_span: str = ""
    context: str = ""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another consumer has a current lease.

    Attributes:
        consumer: The consumer that has it.
        left_ms: How long its lease still runs, in milliseconds.
    """

    consumer: str
    left_ms: int


@dataclass(frozen=True, slots=True)
class Wait:
    """A superseded request's handler has to end first.

    Attributes:
        left_ms: How long that can take at most, in milliseconds.
    """

    left_ms: int


@dataclass(frozen=True, slots=True)
class Done:
    """The request has ended.

    Attributes:
        status: The status with which it ended.
        lost_span: The span of a handler that was killed, '' if there is none.
        is_dead: Whether this call made it a dead letter.
    """

    status: str
    lost_span: str
    is_dead: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """The record does not name this entry: adopt it."""


@dataclass(frozen=True, slots=True)
class Limited:
    """The request waits in the queue of a limiter, without its entry.

    Attributes:
        limiter: The name of the limiter.
        check_ms: In how many milliseconds a sweep looks at the queue again; None if something
            else opens it.
    """

    limiter: str
    check_ms: int | None


BeginAnswer = Claimed | Busy | Wait | Done | Unknown | Limited


def parse_begin(parts: Sequence[Any]) -> BeginAnswer:
    """Read the answer of `begin`."""
    word, *rest = texts(parts)
    if word == "claimed":
        epoch, now_ms, *more = rest
        if not more:
            return Claimed(int(epoch), int(now_ms))
        attempt, failures, *texts_of_claim = more
        return Claimed(int(epoch), int(now_ms), int(attempt), int(failures), *texts_of_claim)
    if word == "done":
        status, lost_span, dead = rest
        return Done(status, lost_span, dead == "dead")
    if word == "busy":
        return Busy(rest[0], int(rest[1]))
    if word == "wait":
        return Wait(int(rest[0]))
    if word == "limited":
        return Limited(rest[0], int(rest[1]) if rest[1] else None)
    return Unknown()


@dataclass(frozen=True, slots=True)
class ProgressAnswer:
    """What `progress` did.

    Attributes:
        is_stale: Whether it was refused because the claim is no longer the current one.
        status: The request's status then, '' if it is unknown.
    """

    is_stale: bool
    status: str = ""

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        word, *rest = texts(parts)
        return cls(word == "stale", *rest)


@dataclass(frozen=True, slots=True)
class FinishAnswer:
    """What `finish` did.

    Attributes:
        outcome: `ok`; `stale`, the claim is no longer the current one; or `mismatch`, a value is
            not the one that an atomic handler expected.
        detail: The request's status if stale, the key at a mismatch.
    """

    outcome: Literal["ok", "stale", "mismatch"]
    detail: str = ""

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        return cls(*cast("Any", texts(parts)))


@dataclass(frozen=True, slots=True)
class ReleaseAnswer:
    """What `release` did.

    Attributes:
        outcome: `ok`; `unclaimed`, only the entry was given back; `stale`, another claim has the
            request, or it has ended; or `span_taken`, a later claim has recorded the span of
            this one.
    """

    outcome: Literal["ok", "unclaimed", "stale", "span_taken"]

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        return cls(*cast("Any", texts(parts)))


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """What `cancel` did.

    Attributes:
        status: `cancelled`, `cancelling`, or the status with which the request had ended.
    """

    status: str

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        return cls(*texts(parts))


@dataclass(frozen=True, slots=True)
class PostponeAnswer:
    """What `postpone` did.

    Attributes:
        outcome: `ok`; `stale`, another claim has the request, or it has ended; or `cancelled`, it was
            cancelled and must end.
        status: The request's status if it is stale.
    """

    outcome: Literal["ok", "stale", "cancelled"]
    status: str = ""

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        return cls(*cast("Any", texts(parts)))


@dataclass(frozen=True, slots=True)
class JournalAnswer:
    """What `journal` did.

    Attributes:
        is_written: Whether the journal was at the expected version, and was replaced.
        version: Its version after the call.
        time: The server's time in the journal, in seconds since the Unix epoch.
    """

    is_written: bool
    version: int
    time: float

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        return cls(parts[0] == b"ok", int(parts[1]), float(parts[2]))


@dataclass(frozen=True, slots=True)
class DueAnswer:
    """What `take_due` took.

    Attributes:
        saga_ids: The sagas.
    """

    saga_ids: tuple[str, ...]

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer. An id that is not text is in no journal."""
        return cls(tuple(part.decode(errors="replace") for part in parts[1:]))
