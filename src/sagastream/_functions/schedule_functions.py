"""Stubs of the functions for schedules: put, take, fire, pause, resume, drop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from sagastream._functions.answers import texts
from sagastream._functions.library import Caller, function_name
from sagastream._functions.requests import digest_of
from sagastream.retention import Retention

_PUT, _TAKE, _FIRE = (function_name(name) for name in ("put_schedule", "take_schedules", "fire"))
_PAUSE, _RESUME, _DROP = (function_name(f"{name}_schedule") for name in ("pause", "resume", "drop"))

Found = Literal["ok", "none", "moved"]


@dataclass(frozen=True, slots=True)
class TakenSchedule:
    """A schedule that is due, as it is on the server.

    Attributes:
        name: Its name.
        layout: Its layout.
        spec: Its definition.
        due_ms: Its oldest due time that was neither fired nor skipped.
    """

    name: str
    layout: str
    spec: bytes
    due_ms: int


@dataclass(frozen=True, slots=True)
class TakeAnswer:
    """What `take_schedules` took.

    Attributes:
        now_ms: The server's time.
        next_ms: In how many milliseconds the next schedule is due; None if none is.
        schedules: Those that are due.
    """

    now_ms: int
    next_ms: int | None
    schedules: tuple[TakenSchedule, ...]

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        now, following, *found = parts
        return cls(
            int(now),
            int(following) if following else None,
            tuple(
                TakenSchedule(
                    name.decode(errors="replace"),
                    layout.decode(errors="replace"),
                    spec,
                    int(due) if due.isdigit() else 0,
                )
                for name, layout, spec, due in found
            ),
        )


@dataclass(frozen=True, slots=True)
class FireAnswer:
    """What `fire` did.

    Attributes:
        outcome: `fired`; `moved`, another process was faster, or the schedule was edited or paused;
            `missed`; `skipped` or `waits`, because the request of the firing before has not ended;
            or `refused`, because another request has this id.
        detail: The entry's id; the request that has not ended; or why it was refused.
        counter: The number of commands that the server has got, if it was fired.
    """

    outcome: Literal["fired", "moved", "missed", "skipped", "waits", "refused"]
    detail: str = ""
    counter: int = 0

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """Read the answer."""
        outcome, *rest = texts(parts)
        if outcome == "fired":
            return cls("fired", rest[0], int(rest[1]))
        return cls(*cast("Any", (outcome, *rest[:1])))


class ScheduleFunctions:
    """Typed calls of the functions for schedules. Schedules, indexes and records are given as keys.

    Args:
        caller: The connection.
        retention: How long what is left of requests is kept that a firing replaces.
    """

    def __init__(self, caller: Caller, *, retention: Retention) -> None:
        self._caller = caller
        self._times = retention.args[:2]

    async def put(
        self,
        schedule: str,
        index: str,
        *,
        name: str,
        layout: int,
        spec: str,
        is_declared: bool,
        due_ms: int | None,
        at_ms: int | None,
    ) -> bool:
        """Write a schedule, unless it is the same; returns whether it was written.

        Args:
            schedule: Its hash.
            index: The index of its stream.
            name: Its name.
            layout: Its layout.
            spec: Its definition.
            is_declared: Whether code declares it: it changes nothing if it has not changed itself.
            due_ms: Its first due time; None if it is never due.
            at_ms: When that one is fired.
        """
        args = (name, layout, spec, "1" if is_declared else "", *_texts(due_ms, at_ms))
        answer = await self._caller.call("FCALL", _PUT, 2, schedule, index, *args)
        return texts(answer) == ["set"]

    async def take(
        self, indexes: Sequence[str], *, prefix: str, again_ms: int, limit: int
    ) -> TakeAnswer:
        """Take the schedules of some streams that are due; others take them after `again_ms`."""
        args = (again_ms, limit, prefix)
        return TakeAnswer.parse(
            await self._caller.call("FCALL", _TAKE, len(indexes), *indexes, *args)
        )

    async def fire(
        self,
        schedule: str,
        index: str,
        record: str,
        stream: str,
        entry: Sequence[str],
        *,
        name: str,
        spec: str | bytes,
        due_ms: int | None,
        next_ms: int | None,
        next_at_ms: int | None,
        is_missed: bool,
        overlap: str,
        turn: str,
        context: str,
    ) -> FireAnswer:
        """Emit the command of a due time, or skip it, and set the next due time.

        Args:
            schedule: The schedule's hash.
            index: The index of its stream.
            record: The request's record.
            stream: The command stream.
            entry: The values of the command, as for `emit`.
            name: The schedule's name.
            spec: Its definition: one that was edited meanwhile is not fired.
            due_ms: The due time; None to fire it now, at an operator's request.
            next_ms: The due time after it; None if there is none.
            next_at_ms: When that one is fired.
            is_missed: Whether the due time is skipped, because it is too late.
            overlap: What happens while the request of the firing before has not ended.
            turn: The turn of the command; '' for none.
            context: What other propagators than W3C Trace Context carry.
        """
        args = [*self._times, name, spec, *_texts(due_ms, next_ms, next_at_ms)]
        args += ["1" if is_missed else "", overlap]
        args += [*entry, "", "", digest_of(stream, entry[3], entry[4])]
        if turn:
            args += ["turn", turn]
        if context:
            args += ["context", context]
        keys = (schedule, index, record, stream)
        return FireAnswer.parse(await self._caller.call("FCALL", _FIRE, 4, *keys, *args))

    async def pause(self, schedule: str, index: str, name: str) -> Found:
        """Let no listener take a schedule."""
        return _found(await self._caller.call("FCALL", _PAUSE, 2, schedule, index, name))

    async def resume(
        self,
        schedule: str,
        index: str,
        *,
        name: str,
        spec: str | bytes,
        due_ms: int | None,
        at_ms: int | None,
    ) -> Found:
        """Let listeners take a paused schedule again, from a due time on."""
        args = (name, spec, *_texts(due_ms, at_ms))
        return _found(await self._caller.call("FCALL", _RESUME, 2, schedule, index, *args))

    async def drop(self, schedule: str, index: str, name: str) -> Found:
        """Delete a schedule; a request that it has emitted goes on."""
        return _found(await self._caller.call("FCALL", _DROP, 2, schedule, index, name))


def _texts(*numbers: int | None) -> list[str]:
    return ["" if number is None else str(number) for number in numbers]


def _found(answer: Sequence[Any]) -> Found:
    return cast("Found", texts(answer)[0])
