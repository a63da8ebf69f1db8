"""`@multi_stage_reply`: what handles a command, and where such handlers are found.

A handler is declared here and run by a listener; this module knows nothing of streams
beyond their names.
"""

import asyncio
import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args

from sagastream._codec.validation import check_name
from sagastream.effects import Atomic, Effect
from sagastream.errors import HandlerStopped, InvalidMessage, RegistrationError
from sagastream.message import Command


class Progress(Protocol):
    """Tells the requester how far an async handler is."""

    async def __call__(self, fraction: float, detail: Mapping[str, Any] | None = None) -> None:
        """Write a progress stage.

        Args:
            fraction: How much is done, from 0 to 1.
            detail: More to tell, as JSON; stands beside `fraction` in the payload.

        Raises:
            InvalidMessage: An argument is not what it must be.
            LeaseLost: Another listener has the request now.
        """


class PlainProgress(Protocol):
    """The same for a plain handler, which runs in a thread."""

    def __call__(self, fraction: float, detail: Mapping[str, Any] | None = None) -> None:
        """Write a progress stage.

        Raises:
            InvalidMessage: An argument is not what it must be.
            HandlerStopped: The request was cancelled, its deadline has passed, or another
                listener has it. It is no `Exception`: let it pass.
        """


Reconcile = Callable[[Command], Awaitable[dict[str, Any] | None]]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that handles one event type of one stream; calling it calls the function.

    `is_async` tells whether it runs in the loop; a plain one runs in a thread.
    """

    stream: str
    event_type: str
    function: Callable[..., Any] = field(compare=False)
    effect: Effect = "idempotent"
    reconcile: Reconcile | None = field(default=None, compare=False)
    is_async: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.function))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function as it is."""
        return self.function(*args, **kwargs)

    @property
    def place(self) -> str:
        """Where the function stands, for messages."""
        return f"{self.function.__module__}.{self.function.__qualname__}"


def multi_stage_reply(
    *,
    stream: str,
    event_type: str,
    effect: Effect = "idempotent",
    reconcile: Reconcile | None = None,
) -> Callable[[Callable[..., Any]], Handler]:
    """Declare a function as the handler of an event type.

    The function gets a `Command` and a `progress`. The requester sees `start`, any number
    of `progress`, and then `completed` with what the function returns, or `failed` with
    the type and message of what it raises.

    Args:
        stream: The command stream.
        event_type: `domain:action`.
        effect: How the effect stays single when the handler runs twice: `idempotent`,
            `atomic` (it returns `Atomic`), or `at_most_once`.
        reconcile: For `at_most_once`: an async function that gets the `Command` of a
            second claim and gives the result of the first, or None if that had no effect.

    Raises:
        InvalidMessage: A name is not what it must be.
        RegistrationError: `effect` is unknown, or does not fit `reconcile`.
    """
    check_name("stream", stream)
    check_name("event_type", event_type)
    if effect not in get_args(Effect):
        raise RegistrationError(f"effect {effect!r} must be one of {', '.join(get_args(Effect))}")
    if (effect == "at_most_once") != (reconcile is not None):
        raise RegistrationError(
            f"{event_type} on {stream}: `at_most_once` needs `reconcile`, and only that has it",
        )

    def declare(function: Callable[..., Any]) -> Handler:
        return Handler(stream, event_type, function, effect, reconcile)

    return declare


def discover(package: str) -> list[Handler]:
    """Import a package and its modules, and collect the handlers that they declare.

    Only what is declared in the package counts, not what its modules import.

    Raises:
        RegistrationError: The package does not exist, or declares no handler.
    """
    try:
        root = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise RegistrationError(f"handler package {package!r}: {error}") from error
    inner = pkgutil.walk_packages(getattr(root, "__path__", []), prefix=f"{package}.")
    modules = [root, *(importlib.import_module(found.name) for found in inner)]
    handlers = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Handler) and value.function.__module__ == module.__name__
    ]
    if not handlers:
        raise RegistrationError(
            f"handler package {package!r} declares no handler; decorate one with @multi_stage_reply",
        )
    return handlers


def registry(handlers: Iterable[Handler]) -> dict[tuple[str, str], Handler]:
    """Handlers by (stream, event type).

    Raises:
        RegistrationError: There is none, one is not a handler, or two are for the same.
    """
    table: dict[tuple[str, str], Handler] = {}
    for handler in handlers:
        if not isinstance(handler, Handler):
            raise RegistrationError(
                f"{handler!r} is no handler; decorate it with @multi_stage_reply"
            )
        place = (handler.stream, handler.event_type)
        if place in table and table[place].function is not handler.function:
            raise RegistrationError(
                f"two handlers for {handler.event_type} on {handler.stream}: "
                f"{table[place].place} and {handler.place}",
            )
        table[place] = handler
    if not table:
        raise RegistrationError("a listener needs at least one handler")
    return table


def progress_payload(fraction: float, detail: Mapping[str, Any] | None) -> dict[str, Any]:
    """The payload of a progress stage.

    Raises:
        InvalidMessage: The fraction is not from 0 to 1, or the detail has its key.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        raise InvalidMessage("fraction", f"must be a number, not {type(fraction).__name__}")
    if not 0 <= fraction <= 1:
        raise InvalidMessage("fraction", f"must be from 0 to 1, not {fraction}")
    if detail and "fraction" in detail:
        raise InvalidMessage("detail.fraction", "is the first argument's name; use another")
    return {**(detail or {}), "fraction": float(fraction)}


async def run_handler(
    handler: Handler,
    command: Command,
    progress: Progress,
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    is_ending: Callable[[], bool],
) -> Atomic:
    """Run a handler, an async one here and a plain one in a thread.

    A plain one cannot be stopped from outside: when it is to end, its next `progress`
    raises `HandlerStopped`, and this waits for it.

    Returns:
        Its result and its writes; none but those of an `atomic` handler.

    Raises:
        InvalidMessage: It returned something else than a dict or None, or `Atomic`.
    """
    if handler.reconcile and command.epoch > 1:
        known = await handler.reconcile(command)
        if known is not None:
            return Atomic(known, ())
    if handler.is_async:
        result = await handler.function(command, progress)
    else:
        loop = asyncio.get_running_loop()

        def plain_progress(fraction: float, detail: Mapping[str, Any] | None = None) -> None:
            if is_ending():
                raise HandlerStopped
            asyncio.run_coroutine_threadsafe(_tell(progress, fraction, detail), loop).result()

        running = asyncio.ensure_future(
            in_thread(lambda: handler.function(command, plain_progress))
        )
        try:
            result = await asyncio.shield(running)
        except asyncio.CancelledError:
            if is_ending():
                await asyncio.wait([running])
                running.exception()
            raise
    if handler.effect == "atomic":
        if not isinstance(result, Atomic):
            raise InvalidMessage("result", f"must be Atomic, not {type(result).__name__}")
        return result
    if not isinstance(result, dict | None):
        raise InvalidMessage("result", f"must be a dict or None, not {type(result).__name__}")
    return Atomic(result or {}, ())


async def _tell(progress: Progress, fraction: float, detail: Mapping[str, Any] | None) -> None:
    await progress(fraction, detail)
