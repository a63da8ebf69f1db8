"""What can be a handler, and what is refused where it is declared."""

import asyncio
import functools
from collections import ChainMap, UserDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    CommandListener,
    Handler,
    Progress,
    RegistrationError,
    RequestFailed,
    multi_stage_reply,
)
from tests.listeners import listening
from tests.polling import eventually

STREAM = "work:commands"


async def report(command: Command, progress: Progress) -> dict[str, Any]:
    """An async handler that reports its progress."""
    await progress(0.5, {"half": True})
    return {"id": command.request_id}


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper that names what it wraps."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper that does not."""

    def wrapper(command: Command, progress: Any) -> Any:
        return function(command, progress)

    return wrapper


class AsyncObject:
    """An object with an async `__call__`."""

    async def __call__(self, command: Command, progress: Progress) -> dict[str, Any]:
        """Handle a command."""
        return await report(command, progress)


class Service:
    """An object whose bound method is a handler."""

    async def handle(self, command: Command, progress: Progress) -> dict[str, Any]:
        """Handle a command."""
        return await report(command, progress)


KINDS: dict[str, Callable[..., Any]] = {
    "function": report,
    "wrapper": wrapped(report),
    "hidden wrapper": hidden(report),
    "object": AsyncObject(),
    "bound method": Service().handle,
    "partial": functools.partial(report),
    "partial of an object": functools.partial(AsyncObject()),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_async_handler_is_awaited_in_any_wrapping(bus: Bus, kind: str) -> None:
    """Its result and its progress arrive, whatever is around it."""
    handler = multi_stage_reply(stream=STREAM, event_type="work:do")(KINDS[kind])
    stages: list[str] = []
    async with listening(bus, [handler]):
        reply = await bus.request_and_reply(
            STREAM,
            "work:do",
            {},
            5,
            on_progress=lambda stage: stages.append(stage["status"]),
            request_id="r",
        )
    assert reply["payload"] == {"id": "r"}
    assert stages == ["start", "progress", "completed"]


async def test_a_wrapped_async_handler_that_is_cancelled_stops(bus: Bus) -> None:
    """It runs in the event loop, as it would alone."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def wait(_command: Command, _progress: Progress) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    handler = multi_stage_reply(stream=STREAM, event_type="work:do")(hidden(wait))
    async with listening(bus, [handler]):
        await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
        await asyncio.wait_for(begun.wait(), 5)
        await bus.cancel("r")
        await asyncio.wait_for(stopped.wait(), 5)
        outcome = await eventually(lambda: bus.outcome("r"), within_s=5, why="it has ended")
    assert outcome["status"] == "cancelled"


def _generator(command: Command, _progress: Progress) -> Iterator[dict[str, Any]]:
    yield command.payload


async def _async_generator(command: Command, _progress: Progress) -> AsyncIterator[dict[str, Any]]:
    yield command.payload


REFUSED: dict[str, tuple[Any, str]] = {
    "three arguments": (lambda command, progress, more: more, "takes two arguments"),
    "keyword only": (lambda *, command, progress: {}, "takes two arguments"),
    "generator": (_generator, "must not yield"),
    "async generator": (_async_generator, "must not yield"),
    "no function": ("report", "is not a function"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_nobody_can_call_is_refused_where_it_is_declared(what: str) -> None:
    """The error names the event type and what is wrong."""
    function, reason = REFUSED[what]
    with pytest.raises(RegistrationError, match=f"work:do on {STREAM}.*{reason}"):
        multi_stage_reply(stream=STREAM, event_type="work:do")(function)


def test_a_method_is_refused_in_its_class() -> None:
    """Nobody would call it with its object."""
    with pytest.raises(RegistrationError, match="is a method"):

        class Broken:
            @multi_stage_reply(stream=STREAM, event_type="work:do")
            async def handle(self, command: Command, progress: Progress) -> None:
                """Never called."""

    assert "Broken" not in locals()


def test_a_handler_is_named_whatever_it_is() -> None:
    """Messages name the function, or the class of an object."""
    declare = multi_stage_reply(stream=STREAM, event_type="work:do")
    assert declare(AsyncObject()).qualified_name.endswith("AsyncObject")
    with pytest.raises(RegistrationError, match="AsyncObject and"):
        CommandListener(Bus("redis://127.0.0.1:1"), [declare(AsyncObject()), declare(report)])


RESULTS: dict[str, Mapping[str, Any]] = {
    "proxy": MappingProxyType({"a": 1}),
    "UserDict": UserDict({"a": 1}),
    "ChainMap": ChainMap({"a": 1}, {"b": 2}),
    "nested": {"a": MappingProxyType({"b": UserDict({"c": (1, 2)})})},
    "empty": MappingProxyType({}),
}


@pytest.mark.parametrize("name", RESULTS)
async def test_any_mapping_is_a_result(bus: Bus, name: str) -> None:
    """What a handler returns may be any mapping, as a payload may."""

    async def answer(_command: Command, _progress: Progress) -> Mapping[str, Any]:
        return RESULTS[name]

    async with listening(bus, [Handler(STREAM, "work:do", answer)]):
        reply = await bus.request_and_reply(STREAM, "work:do", RESULTS[name], 5)
    expected: dict[str, Any] = {
        "proxy": {"a": 1},
        "UserDict": {"a": 1},
        "ChainMap": {"a": 1, "b": 2},
        "nested": {"a": {"b": {"c": [1, 2]}}},
        "empty": {},
    }
    assert reply["payload"] == expected[name]


async def test_a_result_that_is_no_mapping_is_named(bus: Bus) -> None:
    """The failure names the type."""

    async def answer(_command: Command, _progress: Progress) -> Any:
        return [1]

    async with listening(bus, [Handler(STREAM, "work:do", answer)]):
        with pytest.raises(RequestFailed, match="must be a mapping or None, not list"):
            await bus.request_and_reply(STREAM, "work:do", {}, 5)


async def test_a_command_of_a_saga_waits_for_its_listener(bus: Bus) -> None:
    """In a rolling restart no listener has its type for a moment; it holds no slot meanwhile."""

    async def nothing(_command: Command, _progress: Progress) -> None: ...

    undo, other = Handler(STREAM, "work:undo", nothing), Handler(STREAM, "work:other", nothing)
    async with listening(bus, [other], concurrency=1):
        waiting = asyncio.create_task(
            bus.request_and_reply(STREAM, "work:undo", {}, 20, saga_id="s")
        )
        for _ in range(3):
            await bus.request_and_reply(STREAM, "work:other", {}, 5)
        done, _ = await asyncio.wait({waiting}, timeout=1.0)
        assert not done
        with pytest.raises(RequestFailed, match="no live listener handles work:undo"):
            await bus.request_and_reply(STREAM, "work:undo", {}, 5)
        async with listening(bus, [undo]):
            assert (await waiting)["status"] == "completed"
    await bus.command("DEL", *(await bus.command("KEYS", bus.key("request:*"))))
