"""Lifespan, dependencies and middleware: opened, shared, replaced, and always closed."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import pytest

from sagastream import (
    Atomic,
    Bus,
    CallNext,
    Command,
    CommandListener,
    Depends,
    Lifespan,
    PlainProgress,
    RegistrationError,
    RequestCancelled,
    RequestFailed,
    multi_stage_reply,
)
from tests.listeners import listening
from tests.polling import eventually

STREAM = "work:commands"
declare = multi_stage_reply(stream=STREAM, event_type="work:do")


class Log(list[str]):
    """What happened, in order."""


LOG = Log()


@pytest.fixture(autouse=True)
def log() -> Log:
    """An empty log."""
    LOG.clear()
    return LOG


async def opened() -> AsyncIterator[str]:
    """An async generator."""
    LOG.append("open")
    try:
        yield "opened"
    except BaseException as error:
        LOG.append(type(error).__name__)
        raise
    finally:
        LOG.append("close")


def plain_opened() -> Iterator[str]:
    """A plain generator."""
    LOG.append(f"open in {_place()}")
    try:
        yield "opened"
    except BaseException as error:
        LOG.append(type(error).__name__)
        raise
    finally:
        LOG.append(f"close in {_place()}")


async def on_top(below: Annotated[str, Depends(opened)], command: Command) -> AsyncIterator[str]:
    """A dependency with a dependency."""
    LOG.append(f"open on {below} for {command.request_id}")
    yield f"on {below}"
    LOG.append("close on top")


def _place() -> str:
    is_main = threading.current_thread() is threading.main_thread()
    return "the loop" if is_main else "a thread"


async def ask(bus: Bus, **options: Any) -> dict[str, Any]:
    """Ask the handler, and return its result."""
    reply = await bus.request_and_reply(STREAM, "work:do", {}, 5, **options)
    result: dict[str, Any] = reply["payload"]
    return result


# -- lifespan ---------------------------------------------------------------------------------


@asynccontextmanager
async def lifespan() -> AsyncIterator[str]:
    """Open what all handlers share."""
    LOG.append("start")
    try:
        yield "shared"
    finally:
        LOG.append("stop")


@asynccontextmanager
async def lifespan_of(listener: CommandListener) -> AsyncIterator[str]:
    """The same, with the listener."""
    LOG.append("start" if isinstance(listener, CommandListener) else "?")
    yield "shared"
    LOG.append("stop")


@declare
async def share(value: Annotated[str, Lifespan]) -> dict[str, str]:
    """A handler that uses the lifespan's value."""
    LOG.append("handle")
    return {"value": value}


@declare
def share_plain(value: Annotated[str, Lifespan()]) -> dict[str, str]:
    """The same in a thread."""
    LOG.append("handle")
    return {"value": value}


@pytest.mark.parametrize("handler", [share, share_plain])
@pytest.mark.parametrize("kind", ["function", "function of the listener", "context"])
async def test_the_lifespan_is_around_all_commands(bus: Bus, handler: Any, kind: str) -> None:
    """It is entered before the first command is read, and left after the last one has ended."""
    given: Any = {"function": lifespan, "function of the listener": lifespan_of}.get(kind)
    async with listening(bus, [handler], lifespan=given or lifespan()):
        assert await ask(bus) == {"value": "shared"}
        assert await ask(bus) == {"value": "shared"}
    assert LOG == ["start", "handle", "handle", "stop"]


async def test_the_lifespan_is_left_when_the_listener_is_cancelled(bus: Bus) -> None:
    """A handler that is cancelled has ended before."""

    @declare
    async def wait(_value: Annotated[str, Lifespan]) -> None:
        LOG.append("handle")
        try:
            await asyncio.Event().wait()
        finally:
            LOG.append("handled")

    listener = asyncio.create_task(CommandListener(bus, [wait], lifespan=lifespan).run())
    await bus.emit_command(STREAM, event_type="work:do", payload={})
    await eventually(lambda: "handle" in LOG, within_s=5, why="the handler runs")
    listener.cancel()
    await asyncio.wait({listener})
    assert LOG == ["start", "handle", "handled", "stop"]


async def test_a_lifespan_that_fails_ends_the_listener(bus: Bus) -> None:
    """Its error comes out of `run`, and no command is read."""

    @asynccontextmanager
    async def broken() -> AsyncIterator[str]:
        raise ConnectionRefusedError("no database")
        yield ""

    await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
    with pytest.raises(ConnectionRefusedError, match="no database"):
        await CommandListener(bus, [share], lifespan=broken).run()
    assert await bus.outcome("r") is None
    async with listening(bus, [share], lifespan=lifespan):
        await eventually(lambda: bus.outcome("r"), within_s=5, why="the next listener handles it")


async def test_what_is_no_lifespan_is_refused(bus: Bus) -> None:
    """The error says how to make one."""

    async def forgot() -> AsyncIterator[str]:
        yield ""

    with pytest.raises(RegistrationError, match="asynccontextmanager"):
        await CommandListener(bus, [share], lifespan=forgot).run()  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match=r"value is the value of the lifespan.*lifespan="):
        CommandListener(bus, [share])


# -- dependencies -----------------------------------------------------------------------------


@declare
async def use(value: Annotated[str, Depends(on_top)], also: Annotated[str, Depends(opened)]) -> Any:
    """A handler with a chain of dependencies, one of them twice."""
    LOG.append("handle")
    return {"value": value, "also": also}


async def test_dependencies_are_made_once_and_closed_in_reverse(bus: Bus) -> None:
    """For each attempt anew."""
    async with listening(bus, [use]):
        assert await ask(bus, request_id="r") == {"value": "on opened", "also": "opened"}
        assert LOG == ["open", "open on opened for r", "handle", "close on top", "close"]
        await ask(bus, request_id="s")
        assert len(LOG) == 10


FAILING: dict[str, tuple[Callable[[], Any], str]] = {
    "value error": (lambda: (_ for _ in ()).throw(ValueError("no")), "ValueError: no"),
    "exit": (lambda: (_ for _ in ()).throw(SystemExit(3)), "SystemExit: 3"),
    "stop": (lambda: next(iter(())), "StopIteration"),
}


@pytest.mark.parametrize("name", FAILING)
async def test_a_dependency_is_closed_when_the_handler_fails(bus: Bus, name: str) -> None:
    """It gets the handler's error, and so does the requester."""
    fail, message = FAILING[name]

    @declare
    async def broken(_value: Annotated[str, Depends(opened)]) -> None:
        fail()

    async with listening(bus, [broken]):
        with pytest.raises(RequestFailed, match=message):
            await ask(bus)
    assert LOG[0] == "open"
    assert LOG[-1] == "close"
    assert len(LOG) == 3


@pytest.mark.parametrize("is_plain", [False, True])
async def test_a_generator_that_catches_the_error_does_not_hide_it(
    bus: Bus, *, is_plain: bool
) -> None:
    """A failed handler stays failed."""

    async def catches() -> AsyncIterator[str]:
        try:
            yield ""
        except ValueError:
            LOG.append("rolled back")

    def catches_plain() -> Iterator[str]:
        try:
            yield ""
        except ValueError:
            LOG.append("rolled back")

    async def broken(_value: Annotated[str, Depends(catches)]) -> None:
        raise ValueError("no")

    def broken_plain(_value: Annotated[str, Depends(catches_plain)]) -> None:
        raise ValueError("no")

    async with listening(bus, [declare(broken_plain if is_plain else broken)]):
        with pytest.raises(RequestFailed, match="ValueError: no"):
            await ask(bus)
    assert LOG == ["rolled back"]


async def test_a_dependency_is_closed_when_the_request_is_cancelled(bus: Bus) -> None:
    """Before the cancelled stage is written."""

    @declare
    async def wait(_value: Annotated[str, Depends(opened)]) -> None:
        LOG.append("handle")
        await asyncio.Event().wait()

    async with listening(bus, [wait]):
        asking = asyncio.create_task(ask(bus, request_id="r"))
        await eventually(lambda: "handle" in LOG, within_s=5, why="the handler runs")
        await bus.cancel("r")
        with pytest.raises(RequestCancelled):
            await asking
    assert LOG == ["open", "handle", "CancelledError", "close"]


async def test_a_commit_that_fails_fails_the_request(bus: Bus) -> None:
    """What a generator does after the handler belongs to the attempt."""

    async def transaction() -> AsyncIterator[str]:
        yield ""
        raise OSError("the commit failed")

    @declare
    async def write(_value: Annotated[str, Depends(transaction)]) -> None: ...

    async with listening(bus, [write]):
        with pytest.raises(RequestFailed, match="OSError: the commit failed"):
            await ask(bus)


async def test_a_dependency_that_fails_fails_the_request(bus: Bus) -> None:
    """And those before it are closed."""

    def refuse(_below: Annotated[str, Depends(opened)]) -> str:
        raise PermissionError("not you")

    @declare
    async def write(_value: Annotated[str, Depends(refuse)]) -> None:
        LOG.append("handle")

    async with listening(bus, [write]):
        with pytest.raises(RequestFailed, match="PermissionError: not you"):
            await ask(bus)
    assert LOG == ["open", "PermissionError", "close"]


async def test_plain_dependencies_of_a_plain_handler_share_its_thread(bus: Bus) -> None:
    """As a connection of sqlite needs; an async one is made in the event loop, before."""

    def thread_id(_opened: Annotated[str, Depends(plain_opened)]) -> int:
        return threading.get_ident()

    @declare
    def work(
        made_in: Annotated[int, Depends(thread_id)],
        below: Annotated[str, Depends(opened)],
        progress: PlainProgress,
    ) -> dict[str, Any]:
        progress(0.5)
        return {"same": made_in == threading.get_ident(), "below": below}

    async with listening(bus, [work]):
        assert await ask(bus) == {"same": True, "below": "opened"}
    assert LOG == ["open", "open in a thread", "close in a thread", "close"]


async def test_a_plain_handler_that_fails_closes_both_kinds(bus: Bus) -> None:
    """Each generator gets the error."""

    @declare
    def broken(
        _plain: Annotated[str, Depends(plain_opened)], _other: Annotated[str, Depends(opened)]
    ) -> None:
        raise ValueError("no")

    async with listening(bus, [broken]):
        with pytest.raises(RequestFailed, match="ValueError: no"):
            await ask(bus)
    assert [line for line in LOG if "ValueError" in line] == ["ValueError", "ValueError"]
    assert LOG[-1] == "close"


async def test_a_plain_handler_that_is_cancelled_closes_its_dependencies(bus: Bus) -> None:
    """Its next progress stops it, and both kinds of generators see that."""
    begun, go_on = threading.Event(), threading.Event()

    @declare
    def wait(
        _plain: Annotated[str, Depends(plain_opened)],
        _other: Annotated[str, Depends(opened)],
        progress: PlainProgress,
    ) -> None:
        begun.set()
        go_on.wait(10)
        while True:
            progress(0.5)

    async with listening(bus, [wait]):
        asking = asyncio.create_task(ask(bus, request_id="r"))
        await asyncio.to_thread(begun.wait, 5)
        await bus.cancel("r")
        go_on.set()
        with pytest.raises(RequestCancelled):
            await asking
    assert LOG[:2] == ["open", "open in a thread"]
    assert "HandlerStopped" in LOG
    assert LOG.index("close in a thread") < LOG.index("close")


class Pool:
    """A class as a dependency."""

    def __init__(self, value: Annotated[str, Lifespan]) -> None:
        self.value = value


class Factory:
    """An object as a dependency."""

    async def __call__(self) -> str:
        """Make the value."""
        return "made"


@contextmanager
def managed() -> Iterator[str]:
    """A context manager."""
    LOG.append("enter")
    yield "managed"
    LOG.append("leave")


@asynccontextmanager
async def managed_async() -> AsyncIterator[str]:
    """An async context manager."""
    LOG.append("enter async")
    yield "managed"
    LOG.append("leave async")


async def test_all_kinds_of_dependencies(bus: Bus) -> None:
    """A class, a coroutine, an object, and context managers, which are entered."""

    async def awaited() -> str:
        return "awaited"

    @declare
    async def every(
        pool: Annotated[Pool, Depends(Pool)],
        awaited: Annotated[str, Depends(awaited)],
        made: Annotated[str, Depends(Factory())],
        one: Annotated[str, Depends(managed)],
        *,
        other: Annotated[str, Depends(managed_async)],
    ) -> dict[str, str]:
        return {"all": f"{pool.value} {awaited} {made} {one} {other}"}

    async with listening(bus, [every], lifespan=lifespan):
        assert await ask(bus) == {"all": "shared awaited made managed managed"}
    assert LOG == ["start", "enter", "enter async", "leave async", "leave", "stop"]


async def test_an_atomic_handler_opens_anew_in_each_run(bus: Bus) -> None:
    """A run that is repeated because a value has changed is an attempt, too."""

    @multi_stage_reply(stream=STREAM, event_type="work:do", effect="atomic")
    async def write(_value: Annotated[str, Depends(opened)]) -> Atomic:
        return Atomic({"written": True}, ())

    async with listening(bus, [write]):
        assert await ask(bus) == {"written": True}
    assert LOG == ["open", "close"]


async def test_overrides_replace_a_dependency_and_what_it_needs(bus: Bus) -> None:
    """The replaced function is not called; the other one may have dependencies."""

    def fake(command: Command) -> str:
        return f"fake for {command.request_id}"

    async with listening(bus, [use], overrides={on_top: fake, opened: lambda: "no"}):
        assert await ask(bus, request_id="r") == {"value": "fake for r", "also": "no"}
    assert LOG == ["handle"]


def test_dependencies_that_cannot_be_made_are_refused(bus: Bus) -> None:
    """When the listener is made; the error names the handler and the dependency."""

    async def loops(_value: Annotated[str, Depends(lambda: None)]) -> str:
        return ""

    loops.__annotations__["_value"] = Annotated[str, Depends(loops)]

    async def needs_more(number: int) -> str:
        return str(number)

    for function, reason in (
        (loops, "needs itself"),
        (needs_more, "number of a dependency must be"),
    ):

        async def handle(_value: Annotated[str, Depends(function)]) -> None: ...

        with pytest.raises(RegistrationError, match=f"handle.*{reason}"):
            CommandListener(bus, [declare(handle)])
    with pytest.raises(RegistrationError, match="needs a function"):

        @declare
        async def forgot(_value: Annotated[str, Depends]) -> None: ...

    with pytest.raises(RegistrationError, match="is not a function"):
        CommandListener(bus, [share], lifespan=lifespan, middleware=["log"])  # type: ignore[list-item]


# -- middleware -------------------------------------------------------------------------------


async def outer(command: Command, call_next: CallNext) -> Any:
    """A middleware that logs."""
    LOG.append(f"outer {command.event_type}")
    try:
        return await call_next(command)
    finally:
        LOG.append("outer ends")


async def inner(command: Command, call_next: CallNext) -> Any:
    """A middleware that changes the result."""
    result = await call_next(command)
    return {**result, "inner": True}


async def translate(command: Command, call_next: CallNext) -> Any:
    """A middleware that changes an error."""
    try:
        return await call_next(command)
    except KeyError as error:
        raise ValueError("translated") from error


@pytest.mark.parametrize("is_plain", [False, True])
async def test_middleware_is_around_handler_and_dependencies(bus: Bus, *, is_plain: bool) -> None:
    """The first is the outermost; it may change the result."""

    async def work(_value: Annotated[str, Depends(opened)]) -> dict[str, Any]:
        LOG.append("handle")
        return {"a": 1}

    def plain_work(_value: Annotated[str, Depends(opened)]) -> dict[str, Any]:
        LOG.append("handle")
        return {"a": 1}

    handler = declare(plain_work if is_plain else work)
    async with listening(bus, [handler], middleware=[outer, inner]):
        assert await ask(bus) == {"a": 1, "inner": True}
    assert LOG == ["outer work:do", "open", "handle", "close", "outer ends"]


@pytest.mark.parametrize("is_plain", [False, True])
async def test_middleware_sees_the_error_of_the_handler(bus: Bus, *, is_plain: bool) -> None:
    """Also that of a plain one, and may raise another."""

    async def broken() -> None:
        raise KeyError("x")

    def plain_broken() -> None:
        raise KeyError("x")

    handler = declare(plain_broken if is_plain else broken)
    async with listening(bus, [handler], middleware=[translate]):
        with pytest.raises(RequestFailed, match="ValueError: translated"):
            await ask(bus)


async def test_a_payload_that_does_not_fit_goes_through_middleware(bus: Bus) -> None:
    """It is an error of the attempt like any other."""

    @declare
    async def typed(numbers: dict[str, int]) -> dict[str, int]:
        return numbers

    async with listening(bus, [typed], middleware=[outer]):
        with pytest.raises(RequestFailed, match=r"InvalidPayload: numbers\.a"):
            await bus.request_and_reply(STREAM, "work:do", {"a": "x"}, 5)
    assert LOG == ["outer work:do", "outer ends"]
