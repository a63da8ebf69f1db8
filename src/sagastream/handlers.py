"""`@multi_stage_reply`: declare handlers, and find them in a package.

A handler is declared here and run by a listener.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args

from sagastream._codec.validation import check_name
from sagastream.effects import Effect
from sagastream.errors import RegistrationError
from sagastream.message import Command
from sagastream.retention import Retention


class Progress(Protocol):
    """Reports the progress of an async handler to the requester."""

    async def __call__(self, fraction: float, detail: Mapping[str, Any] | None = None) -> None:
        """Write a progress stage.

        Args:
            fraction: How much is done, from 0 to 1.
            detail: More fields of the payload, as JSON, next to `fraction`.

        Raises:
            InvalidMessage: An argument is invalid.
            LeaseLost: Another claim has the request now.
        """


class PlainProgress(Protocol):
    """Reports the progress of a plain handler, which runs in a thread, to the requester."""

    def __call__(self, fraction: float, detail: Mapping[str, Any] | None = None) -> None:
        """Write a progress stage.

        Raises:
            InvalidMessage: An argument is invalid.
            HandlerStopped: The request was cancelled, its deadline has passed, or another
                claim has it. It is not an `Exception`: do not catch it.
        """


Reconcile = Callable[[Command], Awaitable[dict[str, Any] | None]]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that handles one event type of one stream; calling it calls the function.

    `is_async` says whether it runs in the event loop; a plain one runs in a thread.
    """

    stream: str
    event_type: str
    function: Callable[..., Any] = field(compare=False)
    effect: Effect = "idempotent"
    reconcile: Reconcile | None = field(default=None, compare=False)
    retention: Retention | None = None
    is_async: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        function = inspect.unwrap(self.function)
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object with an async `__call__`
        )
        object.__setattr__(self, "is_async", is_async)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function directly."""
        return self.function(*args, **kwargs)

    @property
    def qualified_name(self) -> str:
        """The module and name of the function, for messages."""
        named = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"{named.__module__}.{named.__qualname__}"


def multi_stage_reply(
    *,
    stream: str,
    event_type: str,
    effect: Effect = "idempotent",
    reconcile: Reconcile | None = None,
    retention: Retention | None = None,
) -> Callable[[Callable[..., Any]], Handler]:
    """Declare a function as the handler of an event type.

    The function gets a `Command` and a `progress`. The requester sees `start`, any number
    of `progress`, and then `completed` with what the function returns, or `failed` with
    the type and message of what it raises. An error that says that the server is away
    (`ServerUnavailable`, or the one of another Redis client) is no failure: the request is
    given back, and a handler runs again.

    Args:
        stream: The command stream.
        event_type: `domain:action`.
        effect: The policy that keeps its effect single when it runs twice: `idempotent`,
            `atomic` (it returns `Atomic`), or `at_most_once`.
        reconcile: For `at_most_once`: an async function that gets the `Command` of a
            second claim and returns the result of the first, or None if it had no effect.
        retention: How long its results are kept; None for what the listener says.

    Raises:
        InvalidMessage: A name is invalid.
        RegistrationError: `effect` is unknown, or does not fit `reconcile`; or the function
            is a method, a generator, or does not take two arguments.
    """
    check_name("stream", stream)
    check_name("event_type", event_type)
    if effect not in get_args(Effect):
        raise RegistrationError(f"effect {effect!r} must be one of {', '.join(get_args(Effect))}")
    if (effect == "at_most_once") != (reconcile is not None):
        raise RegistrationError(
            f"{event_type} on {stream}: `reconcile` belongs to `at_most_once`; give both or neither",
        )

    def declare(function: Callable[..., Any]) -> Handler:
        _check_signature(function, f"{event_type} on {stream}")
        return Handler(stream, event_type, function, effect, reconcile, retention)

    return declare


def _check_signature(function: Callable[..., Any], what: str) -> None:
    if not callable(function):
        raise RegistrationError(f"{what}: {function!r} is not a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(f"{what}: a handler returns its result; it must not yield")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # a builtin without a signature
    names = list(signature.parameters)
    if names and names[0] in {"self", "cls"}:
        raise RegistrationError(
            f"{what}: {function.__qualname__} is a method, which nobody calls with its object; "
            "decorate a function, or the bound method of an object"
        )
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise RegistrationError(
            f"{what}: a handler takes two arguments, (command, progress), not {signature}"
        ) from error


def discover(package: str) -> list[Handler]:
    """Import a package and its modules, and collect the handlers that they declare.

    A handler that a module only imports from elsewhere is not collected.

    Raises:
        RegistrationError: The package does not exist, or declares no handler.
    """
    try:
        root = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise RegistrationError(f"handler package {package!r}: {error}") from error
    inner = pkgutil.walk_packages(getattr(root, "__path__", []), prefix=f"{package}.")
    modules = [root, *(importlib.import_module(module.name) for module in inner)]
    handlers = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Handler) and _module_of(value.function) == module.__name__
    ]
    if not handlers:
        raise RegistrationError(
            f"handler package {package!r} declares no handler; decorate one with @multi_stage_reply",
        )
    return handlers


def _module_of(function: Callable[..., Any]) -> str:
    # An object with `__call__` has the module of its class.
    return str(getattr(function, "__module__", ""))


def registry(handlers: Iterable[Handler]) -> dict[tuple[str, str], Handler]:
    """Handlers by (stream, event type).

    Raises:
        RegistrationError: There is no handler, an item is not a handler, or two are for the
            same (stream, event type).
    """
    table: dict[tuple[str, str], Handler] = {}
    for handler in handlers:
        if not isinstance(handler, Handler):
            raise RegistrationError(
                f"{handler!r} is not a handler; decorate it with @multi_stage_reply"
            )
        key = (handler.stream, handler.event_type)
        if key in table and table[key].function is not handler.function:
            raise RegistrationError(
                f"two handlers for {handler.event_type} on {handler.stream}: "
                f"{table[key].qualified_name} and {handler.qualified_name}",
            )
        table[key] = handler
    if not table:
        raise RegistrationError("a listener needs at least one handler")
    return table
