"""The answers of the functions for streams, as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from sagastream._functions.answers import texts


@dataclass(frozen=True, slots=True)
class SweepAnswer:
    """What `sweep` took over.

    Attributes:
        is_busy: Whether another sweeper has the stream now.
        due_ms: In how many milliseconds the next postponed request is due; None if none waits.
        entries: Entry ids, fields, and how many times each was delivered.
    """

    is_busy: bool
    due_ms: int | None = None
    entries: tuple[tuple[str, dict[bytes, bytes], int], ...] = ()

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        word, due, *entries = parts
        return cls(
            word == b"busy",
            int(due) if due else None,
            tuple(
                (entry_id.decode(), dict(zip(flat[::2], flat[1::2], strict=True)), deliveries)
                for entry_id, flat, deliveries in entries
            ),
        )


@dataclass(frozen=True, slots=True)
class EventAnswer:
    """What `event` did.

    Attributes:
        is_refused: Whether it was a stage of a request that the caller has not claimed.
        entry_id: The new entry, '' if refused.
    """

    is_refused: bool
    entry_id: str = ""

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        word, *rest = texts(parts)
        return cls(word == "refused", *rest)


@dataclass(frozen=True, slots=True)
class RejectAnswer:
    """What `reject` did.

    Attributes:
        is_done: Whether the entry was no longer pending, so that nothing was written.
    """

    is_done: bool

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        return cls(parts[0] == b"done")


@dataclass(frozen=True, slots=True)
class ForwardAnswer:
    """What `forward` did.

    Attributes:
        is_forwarded: Whether the command is in the stream for another listener.
        entry_id: Its entry; '' if it was not forwarded.
        now_ms: The server's time, if no live listener handles the command.
        event_types: What live listeners handle then.
    """

    is_forwarded: bool
    entry_id: str = ""
    now_ms: int = 0
    event_types: tuple[str, ...] = ()

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        word, *rest = texts(parts)
        if word == "forwarded":
            return cls(True, rest[0])
        return cls(False, "", int(rest[0]), tuple(rest[1:]))
