"""What a handler can ask for besides its payload: dependencies, and the lifespan's value.

A parameter `Annotated[Session, Depends(open_session)]` gets what `open_session` makes for each
attempt; `Annotated[Database, Lifespan]` gets what the listener's lifespan yields.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from sagastream.message import Command


@dataclass(frozen=True, slots=True)
class Depends:
    """Marks a parameter as a dependency: `Annotated[Session, Depends(get_session)]`.

    The function is called for each attempt, once for all that depend on it. It may be plain or
    async; a generator yields its value, and is closed when the attempt has ended, before its
    end is written. An error of the handler is raised in it. It may take a `Command`, other
    dependencies and the value of the lifespan.

    A plain function runs where the handler does: in the event loop, or in the thread of a plain
    handler. What an async one needs runs in the event loop.

    Attributes:
        function: Makes the value.
    """

    function: Callable[..., Any]


class Lifespan:
    """Marks a parameter as the value of the listener's lifespan: `Annotated[Database, Lifespan]`."""


# Called with the command by a middleware; returns what the handler returned.
CallNext = Callable[[Command], Awaitable[Any]]
# Wraps every handler of a listener; returns its result, and may raise instead.
Middleware = Callable[[Command, CallNext], Awaitable[Any]]
# An async context manager, or a function that makes one and may take the listener.
LifespanContext = AbstractAsyncContextManager[Any] | Callable[..., AbstractAsyncContextManager[Any]]
