"""Calls of one function that are made in one tick of the event loop, sent as one command.

Each call has its own answer; a refused call does not touch the others.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sagastream._functions.library import Caller, function_name
from sagastream._redis.deadline import Deadline
from sagastream._redis.protocol import error_of
from sagastream._telemetry.spans import retried
from sagastream.errors import NotReplicated

# The largest number of calls in one command. A call costs the server less in a larger batch; but
# with one batch for all, server and processes would wait for each other in turn.
_BATCH_SIZE = 32

T = TypeVar("T")
Parse = Callable[[Sequence[Any]], T]


@dataclass(frozen=True, slots=True)
class _Call:
    """One request's part of a batch."""

    keys: tuple[str, str]
    args: Sequence[str | bytes]
    parse: Parse[Any]
    answer: "asyncio.Future[Any]"
    context: Context
    deadline: Deadline | None


class Batcher:
    """Collects the calls of a tick, and sends each function's calls as one command.

    Args:
        caller: The connection.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._batches: dict[tuple[str, ...], list[_Call]] = {}

    def call(
        self,
        name: str,
        shared: tuple[str, ...],
        keys: tuple[str, str],
        args: Sequence[str | bytes],
        parse: Parse[T],
        *,
        deadline: Deadline | None = None,
    ) -> "asyncio.Future[T]":
        """Call a function for one request, in one command with the other calls of this tick.

        The command is sent again while a caller waits for its answer.

        Args:
            name: The function.
            shared: The arguments that all requests of the batch share.
            keys: The request's record and stream.
            args: The request's own arguments.
            parse: Reads the request's answer.
            deadline: When the caller waits no longer for a server that is away; None for never.
        """
        loop = asyncio.get_running_loop()
        call = _Call(keys, args, parse, loop.create_future(), copy_context(), deadline)
        key = (name, *shared)
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = []
            loop.call_soon(self._send, key, batch)
        batch.append(call)
        if len(batch) >= _BATCH_SIZE:
            self._send(key, batch)
        return call.answer

    def _send(self, key: tuple[str, ...], batch: list[_Call]) -> None:
        if self._batches.get(key) is not batch:
            return  # the batch was full, and has been sent
        del self._batches[key]
        name, *shared = key
        command: list[Any] = ["FCALL", function_name(name), 2 * len(batch)]
        for call in batch:
            command += call.keys
        command += shared
        for call in batch:
            command.append(len(call.args))
            command += call.args
        self._caller.post(
            tuple(command),
            partial(_deliver, batch),
            on_retry=partial(self._note_retry, batch),
        )

    def _note_retry(self, batch: list[_Call], error: BaseException) -> bool:
        for call in batch:
            call.context.run(retried, error)
            if call.deadline is None:
                continue
            if isinstance(error, NotReplicated) and not call.answer.done():
                call.answer.set_exception(error)
                continue
            call.deadline.note(error)
            if call.deadline.is_over and not call.answer.done():
                call.answer.set_exception(self._caller.timed_out(call.deadline))
        return not all(call.answer.done() for call in batch)


def _deliver(batch: list[_Call], answers: Any) -> None:
    if isinstance(answers, BaseException):
        for call in batch:
            if not call.answer.done():
                call.answer.set_exception(answers)
        return
    for call, parts in zip(batch, answers, strict=True):
        if call.answer.done():
            continue
        if parts[0] == b"error":
            call.answer.set_exception(error_of(parts[1].decode(errors="replace")))
        else:
            call.answer.set_result(call.parse(parts))
