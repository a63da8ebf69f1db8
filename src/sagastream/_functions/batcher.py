"""Calls of one function that are made in one tick of the loop, sent as one command.

Each has an answer of its own; what one is refused for does not touch the others.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from sagastream._redis.protocol import error_of
from sagastream._telemetry.spans import retried

# So many calls of a function go in one command at most: the server is at the first ones
# while the next are still being made.
_MOST_TOGETHER = 16


class Caller(Protocol):
    """Sends commands, loads the library where it is missing, and repeats what was lost.

    That is right as each function answers alike when it is called again.
    """

    async def call(self, *args: Any, call_timeout_s: float | None = None) -> Any:
        """Send a command and wait for its answer."""

    def post(
        self,
        args: tuple[Any, ...],
        receive: Callable[[Any], None],
        *,
        call_timeout_s: float | None,
        on_retry: Callable[[BaseException], bool],
    ) -> None:
        """Send a command; `receive` gets its answer, or the exception that came instead."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a function says: a word, and what belongs to it."""

    word: str
    rest: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    """One request's part of a command that many share."""

    keys: tuple[str, str]
    args: Sequence[str | bytes]
    answer: "asyncio.Future[Answer]"
    context: Context


def answer_of(parts: Sequence[Any]) -> Answer:
    """Read what a function said."""
    word, *rest = [part.decode() if isinstance(part, bytes) else str(part) for part in parts]
    return Answer(word, tuple(rest))


class Batcher:
    """Sends what is called together.

    Args:
        caller: The connection.
        prefix: Put before the functions' names.
    """

    def __init__(self, caller: Caller, prefix: str) -> None:
        self._caller = caller
        self._prefix = prefix
        self._due: dict[tuple[str, ...], list[_Call]] = {}

    def __call__(
        self,
        name: str,
        shared: tuple[str, ...],
        keys: tuple[str, str],
        args: Sequence[str | bytes],
        call_timeout_s: float | None = None,
    ) -> "asyncio.Future[Answer]":
        """Call a function for one request, with whoever calls it in this tick."""
        loop = asyncio.get_running_loop()
        call = _Call(keys, args, loop.create_future(), copy_context())
        place = (name, *shared)
        due = self._due.get(place)
        if due is None:
            due = self._due[place] = []
            if not self._caller.is_idle:
                loop.call_soon(self._go, place, due, call_timeout_s)
        due.append(call)
        if len(due) >= _MOST_TOGETHER or self._caller.is_idle:
            self._go(place, due, call_timeout_s)
        return call.answer

    def _go(self, place: tuple[str, ...], due: list[_Call], call_timeout_s: float | None) -> None:
        if self._due.get(place) is not due:
            return  # these are gone already
        del self._due[place]
        name, *shared = place
        command: list[Any] = ["FCALL", self._prefix + name, 2 * len(due)]
        for call in due:
            command += call.keys
        command += shared
        for call in due:
            command.append(len(call.args))
            command += call.args
        self._caller.post(
            tuple(command),
            partial(_hand_out, due),
            call_timeout_s=call_timeout_s,
            on_retry=partial(_note_retry, due),
        )


def _hand_out(calls: list[_Call], answers: Any) -> None:
    if isinstance(answers, BaseException):
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(answers)
        return
    for call, parts in zip(calls, answers, strict=True):
        if call.answer.done():
            continue
        answer = answer_of(parts)
        if answer.word == "error":
            call.answer.set_exception(error_of(answer.rest[0]))
        else:
            call.answer.set_result(answer)


def _note_retry(calls: list[_Call], error: BaseException) -> bool:
    for call in calls:
        call.context.run(retried, error)
    return not all(call.answer.done() for call in calls)
