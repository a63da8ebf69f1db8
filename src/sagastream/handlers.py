"""`@multi_stage_reply`: declare handlers, and find them in a package.

A handler is declared here and run by a listener.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, get_args

from sagastream._codec.validation import check_name
from sagastream._handlers.injection import call_with
from sagastream._handlers.signature import Reader, Signature
from sagastream._schedules.schedule import Schedule
from sagastream.admission import Limit, check_limits
from sagastream.effects import Effect
from sagastream.errors import InvalidMessage, RegistrationError
from sagastream.message import Command, Payload
from sagastream.retention import Retention
from sagastream.retries import RetryPolicy

Reconcile = Callable[[Command], Awaitable[Payload | None]]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that handles one event type of one stream; calling it calls the function.

    `is_async` says whether it runs in the event loop; a plain one runs in a thread. `call` calls
    it with a command and a progress, if it has no dependencies.

    Raises:
        RegistrationError: The function cannot be called, or its result cannot be a reply.
    """

    stream: str
    event_type: str
    function: Callable[..., Any] = field(compare=False)
    effect: Effect = "idempotent"
    reconcile: Reconcile | None = field(default=None, compare=False)
    retention: Retention | None = None
    retry: RetryPolicy | None = None
    limits: tuple[Limit, ...] = ()
    schedules: tuple[Schedule, ...] = field(default=(), compare=False)
    scope: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    is_async: bool = field(init=False, compare=False, repr=False)
    signature: Signature = field(init=False, compare=False, repr=False)
    call: Callable[..., Any] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        what = f"{self.event_type} on {self.stream}"
        if not callable(self.function):
            raise RegistrationError(f"{what}: {self.function!r} is not a function")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise RegistrationError(
                f"{what}: {self.qualified_name}: a handler returns its result; it must not yield"
            )
        function = inspect.unwrap(self.function)
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object with an async `__call__`
        )
        try:
            schedules = tuple(each.of(self.stream, self.event_type) for each in self.schedules)
        except (InvalidMessage, AttributeError, TypeError) as error:
            raise RegistrationError(f"{what}: schedules: {error}") from error
        reader = Reader(f"{what}: {self.qualified_name}", self.function, self.scope)
        signature = reader.read(self.effect)
        for name, value in (
            ("is_async", is_async),
            ("signature", signature),
            ("call", call_with(self.function, signature)),
            ("limits", check_limits(what, self.limits)),
            ("schedules", schedules),
            ("scope", None),
        ):
            object.__setattr__(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function directly, as a test does."""
        return self.function(*args, **kwargs)

    @property
    def qualified_name(self) -> str:
        """The module and name of the function, for messages."""
        function: Any = self.function
        named = function if hasattr(function, "__qualname__") else type(function)
        return f"{named.__module__}.{named.__qualname__}"


def multi_stage_reply(
    *,
    stream: str,
    event_type: str,
    effect: Effect = "idempotent",
    reconcile: Reconcile | None = None,
    retention: Retention | None = None,
    retry: RetryPolicy | None = None,
    limits: Sequence[Limit] = (),
    schedules: Iterable[Schedule] = (),
) -> Callable[[Callable[..., Any]], Handler]:
    """Declare a function as the handler of an event type.

    The annotations of its parameters say what it gets: the `Command` (also `Command[Order]`), a
    `Progress` (`PlainProgress` if it is not async), dependencies (`Annotated[…, Depends(…)]`), the
    value of the lifespan, and the payload as a dict, a dataclass, a TypedDict, a pydantic model or
    a msgspec Struct. Without annotations these are command and progress. It returns such a payload
    too, or None. A payload that does not fit fails the request as `InvalidPayload`.

    The requester sees `start`, any number
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
        retry: Which errors are followed by another attempt, and when; None for none. A request
            that waits for it holds no slot. It ends as `failed` after the last attempt.
        limits: How many of its requests run at once or begin in a time, over all listeners. Those
            beyond wait on the server and hold no slot.
        schedules: When it is run repeatedly; a listener sets them at its start. One that was
            edited on the server stays so until it is changed here.

    Raises:
        InvalidMessage: A name is invalid.
        RegistrationError: `effect` is unknown, or does not fit `reconcile`; or the function
            is a method or a generator, has a parameter that nothing can be given for, calls
            `progress` without taking it, or its result cannot be JSON; or two limits count
            the same.
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
        scope = sys._getframe(1).f_locals  # noqa: SLF001 - classes that a function defines
        options = (effect, reconcile, retention, retry, tuple(limits), tuple(schedules))
        return Handler(stream, event_type, function, *options, scope)

    return declare


def discover(package: str) -> list[Handler]:
    """Import a package and its modules, and collect the handlers that they declare.

    A handler that a module only imports from elsewhere is not collected.

    Raises:
        RegistrationError: The package does not exist, or declares no handler.
    """
    handlers = [
        value
        for module in import_all(package)
        for value in vars(module).values()
        if isinstance(value, Handler) and _module_of(value.function) == module.__name__
    ]
    if not handlers:
        raise RegistrationError(
            f"handler package {package!r} declares no handler; decorate one with @multi_stage_reply",
        )
    return handlers


def import_all(package: str) -> list[ModuleType]:
    """Import a module, or a package and its modules, but for `__main__`, which would run.

    Raises:
        RegistrationError: There is no such package.
    """
    try:
        root = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise RegistrationError(f"handler package {package!r}: {error}") from error
    inner = pkgutil.walk_packages(getattr(root, "__path__", []), prefix=f"{package}.")
    names = [module.name for module in inner if not module.name.endswith(".__main__")]
    return [root, *(importlib.import_module(name) for name in names)]


def declared_schedules(
    handlers: Iterable[Handler], schedules: Iterable[Schedule]
) -> list[Schedule]:
    """The schedules of handlers, and other ones, by name.

    Raises:
        RegistrationError: One has no stream or event type, or two have the same name.
    """
    table: dict[str, Schedule] = {}
    for schedule in (*(each for handler in handlers for each in handler.schedules), *schedules):
        if not isinstance(schedule, Schedule):
            raise RegistrationError(f"{schedule!r} is not a schedule")
        if not (schedule.stream and schedule.event_type):
            raise RegistrationError(f"schedule {schedule.name} needs a stream and an event_type")
        if table.setdefault(schedule.name, schedule) != schedule:
            raise RegistrationError(f"two schedules have the name {schedule.name}")
    return list(table.values())


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
