"""Call handlers with what their parameters ask for: payload, dependencies, the lifespan's value.

A listener makes a plan for each handler with dependencies when it is made; what cannot be
resolved is refused then. An attempt makes the values in the plan's order, and closes them in
reverse.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sagastream._handlers.signature import Argument, Reader, Signature
from sagastream.dependencies import LifespanContext, Middleware
from sagastream.errors import RegistrationError
from sagastream.message import Command

Style = Literal["value", "awaited", "context", "async context"]
Values = dict[Any, Any]
_LIFESPAN = object()


def call_with(function: Callable[..., Any], signature: Signature) -> Callable[..., Any]:
    """Make the call of a function from a command, a progress and the values of its dependencies.

    A function that takes command and progress is its own call: it costs nothing.
    """
    if signature.is_classic:
        return function
    arguments = signature.arguments

    def call(command: Command, progress: Any, values: Mapping[Any, Any] | None = None) -> Any:
        positional, named = [], {}
        for argument in arguments:
            value = _value(argument, command, progress, values)
            if argument.is_keyword:
                named[argument.name] = value
            else:
                positional.append(value)
        return function(*positional, **named)

    return call


def _value(
    argument: Argument, command: Command[Any], progress: Any, values: Mapping[Any, Any] | None
) -> Any:
    if argument.kind == "command":
        return command
    if argument.kind == "progress":
        return progress
    if argument.kind in {"dependency", "lifespan"}:
        assert values is not None
        return values[argument.depends or _LIFESPAN]
    payload = command.payload
    if argument.converter:
        payload = argument.converter.decode(payload, argument.path)
    if argument.kind == "payload":
        return payload
    fields = {name: getattr(command, name) for name in command.__slots__}
    return Command(**{**fields, "payload": payload})


@dataclass(frozen=True, slots=True)
class Provider:
    """Makes the value of one dependency.

    Attributes:
        key: The function that `Depends` names.
        style: Whether its result is the value, is awaited, or is a context.
        call: Calls the function, or the one that replaces it.
    """

    key: Any
    style: Style
    call: Callable[..., Any]

    async def enter(self, stack: AsyncExitStack, command: Command, values: Values) -> None:
        """Make the value in the event loop."""
        made = self.call(command, None, values)
        if self.style == "awaited":
            made = await made
        elif self.style == "async context":
            made = await stack.enter_async_context(made)
        elif self.style == "context":
            made = stack.enter_context(made)
        values[self.key] = made

    def enter_plain(self, stack: ExitStack, command: Command, values: Values) -> None:
        """Make the value in the thread of a plain handler."""
        made = self.call(command, None, values)
        values[self.key] = stack.enter_context(made) if self.style == "context" else made


class Plan:
    """How one handler gets its dependencies.

    Args:
        function: The handler's function.
        signature: Its signature.
        in_loop: What is made in the event loop, in this order.
        in_thread: What is made in the thread of a plain handler, after that.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        signature: Signature,
        in_loop: Sequence[Provider],
        in_thread: Sequence[Provider],
    ) -> None:
        self._call = call_with(function, signature)
        self._in_loop = in_loop
        self._in_thread = in_thread

    @asynccontextmanager
    async def entered(
        self, command: Command, lifespan: Any
    ) -> AsyncIterator[Callable[[Command, Any], Any]]:
        """Make the dependencies of an attempt; they are closed with the context.

        Yields:
            Calls the handler with a command and a progress.
        """
        values: Values = {_LIFESPAN: lifespan}
        raised: BaseException | None = None
        async with AsyncExitStack() as stack:
            for provider in self._in_loop:
                await provider.enter(stack, command, values)
            try:
                yield lambda command, progress: self._run(command, progress, values)
            except BaseException as error:
                raised = error
                raise
        if raised is not None:
            raise raised  # a generator that caught it does not make the attempt a success

    def _run(self, command: Command, progress: Any, values: Values) -> Any:
        if not self._in_thread:
            return self._call(command, progress, values)
        raised: BaseException | None = None
        result: Any = None
        with ExitStack() as stack:
            for provider in self._in_thread:
                provider.enter_plain(stack, command, values)
            try:
                result = self._call(command, progress, values)
            except BaseException as error:
                raised = error
                raise
        if raised is not None:
            raise raised
        return result


class Plannable(Protocol):
    """A handler, as far as a plan of its dependencies needs it."""

    @property
    def function(self) -> Callable[..., Any]:
        """What it calls."""

    @property
    def signature(self) -> Signature:
        """Its signature."""

    @property
    def is_async(self) -> bool:
        """Whether it runs in the event loop."""

    @property
    def qualified_name(self) -> str:
        """Its name, for messages."""


class Injector:
    """What a listener puts around its handlers.

    Args:
        lifespan: Entered when the listener starts; None for none.
        overrides: Functions that replace those of `Depends`.
        middleware: Wraps the handlers; the first is the outermost.

    Attributes:
        middleware: As given.
        lifespan_value: What handlers get for `Lifespan`.
    """

    def __init__(
        self,
        lifespan: LifespanContext | None,
        overrides: Mapping[Callable[..., Any], Callable[..., Any]],
        middleware: Iterable[Middleware],
    ) -> None:
        self._lifespan = lifespan
        self._overrides = overrides
        self.middleware = tuple(middleware)
        self.lifespan_value: Any = None
        for each in self.middleware:
            if not callable(each):
                raise RegistrationError(f"the middleware {each!r} is not a function")

    def plan(self, handler: "Plannable") -> Plan:
        """Plan the dependencies of a handler.

        Raises:
            RegistrationError: A dependency cannot be called, or needs itself, or the listener has
                no lifespan though the handler needs its value.
        """
        found: dict[Any, tuple[Provider, Signature]] = {}
        self._collect(handler.qualified_name, handler.signature, found, ())
        loop = {key for key, (each, _) in found.items() if handler.is_async or _is_async(each)}
        for key, (_, needed) in reversed(found.items()):
            if key in loop:
                loop |= {each.depends for each in needed.dependencies if each.depends}
        providers = [each for each, _ in found.values()]
        return Plan(
            handler.function,
            handler.signature,
            [each for each in providers if each.key in loop],
            [each for each in providers if each.key not in loop],
        )

    def _collect(
        self,
        name: str,
        signature: Signature,
        found: dict[Any, tuple[Provider, Signature]],
        above: tuple[Any, ...],
    ) -> None:
        """Add what a signature needs to `found`, each after what it needs itself."""
        for argument in signature.dependencies:
            key = argument.depends
            if key is None:
                if self._lifespan is None:
                    raise RegistrationError(
                        f"{name}: {argument.name} is the value of the lifespan, which this listener "
                        "does not have; give it CommandListener(…, lifespan=…)"
                    )
                continue
            if key in above:
                raise RegistrationError(f"{name}: the dependency {_name(key)} needs itself")
            if key in found:
                continue
            function = self._overrides.get(key, key)
            what = f"the dependency {_name(function)} of {name}"
            needed = Reader(what, function, is_dependency=True).read()
            self._collect(what, needed, found, (*above, key))
            style, function = _style(function)
            found[key] = (Provider(key, style, call_with(function, needed)), needed)

    @asynccontextmanager
    async def entered(self, listener: Any) -> AsyncIterator[None]:
        """Enter the lifespan for as long as the context lasts."""
        if self._lifespan is None:
            yield
            return
        context: Any = self._lifespan
        if not isinstance(context, AbstractAsyncContextManager):
            parameters = inspect.signature(context).parameters.values()
            takes_one = any(each.default is each.empty for each in parameters)
            context = context(listener) if takes_one else context()
        if not isinstance(context, AbstractAsyncContextManager):
            raise RegistrationError(
                f"the lifespan {self._lifespan!r} is not an async context manager; "
                "decorate it with @asynccontextmanager"
            )
        async with context as self.lifespan_value:
            yield


async def through(
    middleware: Sequence[Middleware], command: Command, call: Callable[[Command], Any]
) -> Any:
    """Call a handler through middleware, the first of them outermost."""
    if not middleware:
        return await call(command)
    first, rest = middleware[0], middleware[1:]
    return await first(command, lambda given: through(rest, given, call))


def _is_async(provider: Provider) -> bool:
    return provider.style in {"awaited", "async context"}


def _style(function: Callable[..., Any]) -> tuple[Style, Callable[..., Any]]:
    """How a dependency gives its value; a generator becomes a context manager."""
    if inspect.isasyncgenfunction(function):
        return "async context", asynccontextmanager(function)
    if inspect.isgeneratorfunction(function):
        return "context", contextmanager(function)
    inner = inspect.unwrap(function)
    if inspect.isasyncgenfunction(inner):
        return "async context", function  # @asynccontextmanager
    if inspect.isgeneratorfunction(inner):
        return "context", function  # @contextmanager
    called = getattr(function, "__call__", None)  # noqa: B004 - an object with an async `__call__`
    if asyncio.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        return "awaited", function
    return "value", function


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", repr(function))
