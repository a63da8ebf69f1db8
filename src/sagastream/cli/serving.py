"""Run the handlers of modules in this process, and drive their sagas."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from sagastream._redis.retrying import end_tasks
from sagastream._telemetry.log_context import log_context
from sagastream.bus import Bus
from sagastream.cli.probes import serve_probes
from sagastream.cli.server_address import server_url
from sagastream.errors import InvalidMessage, RegistrationError, SagastreamError
from sagastream.handlers import Handler, import_all
from sagastream.listener import CommandListener
from sagastream.saga import Saga, SagaRunner

logger = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_IDS = ("request_id", "correlation_id", "saga_id", "step", "attempt")


class WrongUrl(SagastreamError):
    """The URL does not name a server."""


def make_bus(options: argparse.Namespace, *, call_timeout_s: float = 10.0) -> Bus:
    """The bus of the server, by `--url` or the environment, and of `--namespace`.

    Raises:
        WrongUrl: The URL does not name a server. The error does not show it: it may have a password.
        InvalidMessage: The namespace is invalid.
    """
    url = server_url(options.url)
    try:
        return Bus(url, namespace=options.namespace, call_timeout_s=call_timeout_s)
    except InvalidMessage as error:
        if error.field != "url":
            raise
        raise WrongUrl(
            "--url, or REDIS_URL, must be redis://HOST:PORT/0, rediss://HOST:PORT/0, unix:///PATH, "
            "redis+sentinel://HOST:PORT/SERVICE or redis+cluster://HOST:PORT; write special "
            "characters of a password in hexadecimal, such as / as %2F"
        ) from None


def serve(options: argparse.Namespace) -> int:
    """Run the handlers until SIGTERM or Ctrl-C; returns the exit code.

    What a module that declares handlers, or that is named, calls `lifespan` and `middleware`
    belongs to the listener.

    Raises:
        RegistrationError: A module cannot be imported, or has neither handlers nor sagas.
        ServerUnavailable: The server cannot be reached.
    """
    configure_logs(options.log_level)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as `python -m` does
    found = Found(options.modules)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(options, found))
    return 0


class Found:
    """What modules declare.

    Args:
        modules: The names of modules and packages.

    Attributes:
        handlers: Their handlers.
        sagas: Their sagas, by name: each with its versions, the newest first.
        lifespan: The lifespan of the listener; None if no module has one.
        middleware: The middleware of the listener.

    Raises:
        RegistrationError: A module cannot be imported, there are neither handlers nor sagas, or
            two lifespans, or two declarations of one version of a saga.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.sagas: dict[str, list[Saga]] = {}
        self.lifespan: Any = None
        self.middleware: list[Any] = []
        handlers: list[Handler] = []
        for name in modules:
            for module in import_all(name):
                values = list(vars(module).values())
                handlers += [each for each in values if isinstance(each, Handler)]
                for each in values:
                    if isinstance(each, Saga):
                        self._note_saga(each)
                # A web application in the same package has a lifespan, too, which is another one.
                if module.__name__ == name or any(_is_declared_in(module, each) for each in values):
                    self._note_surroundings(module)
        # One that is imported elsewhere, too, is one.
        self.handlers = list({id(each): each for each in handlers}.values())
        if not self.handlers and not self.sagas:
            raise RegistrationError(
                f"{', '.join(modules)}: no handler and no saga there; decorate a function with "
                "@multi_stage_reply"
            )

    def _note_saga(self, saga: Saga) -> None:
        versions = {each.version: each for each in self.sagas.get(saga.name, ())}
        if versions.setdefault(saga.version, saga) != saga:
            raise RegistrationError(
                f"two declarations of saga {saga.name} have version {saga.version}"
            )
        self.sagas[saga.name] = [versions[each] for each in sorted(versions, reverse=True)]

    def _note_surroundings(self, module: ModuleType) -> None:
        lifespan, middleware = (_value_of(module, name) for name in ("lifespan", "middleware"))
        if lifespan is not None and self.lifespan not in {None, lifespan}:
            raise RegistrationError(f"{module.__name__}.lifespan: another module has one, too")
        self.lifespan = lifespan or self.lifespan
        if not isinstance(middleware, list | tuple | None):
            raise RegistrationError(f"{module.__name__}.middleware must be a list of functions")
        self.middleware += [each for each in middleware or () if each not in self.middleware]


def _value_of(module: ModuleType, name: str) -> Any:
    """What a module calls so; None if it has nothing, or a module of that name inside it."""
    value = getattr(module, name, None)
    return None if isinstance(value, ModuleType) else value


def _is_declared_in(module: ModuleType, value: Any) -> bool:
    function = value.function if isinstance(value, Handler) else None
    return getattr(function, "__module__", "") == module.__name__


async def _serve(options: argparse.Namespace, found: Found) -> None:
    async with make_bus(options) as bus:
        await bus.ping()
        for name in found.sagas:
            logger.info("driving the sagas of %s that no process works on", name)
        driving = [
            asyncio.create_task(SagaRunner(bus, newest, older=older).serve())
            for newest, *older in found.sagas.values()
        ]
        try:
            await _listen(bus, options, found)
        finally:
            await end_tasks(*driving)


async def _listen(bus: Bus, options: argparse.Namespace, found: Found) -> None:
    probes = partial(serve_probes, bus, options.health_host, options.health_port)
    if not found.handlers:
        async with probes(None):
            await _until_signal()
        return
    listener = CommandListener(
        bus,
        found.handlers,
        concurrency=options.concurrency,
        group=options.group,
        drain_s=options.drain,
        lifespan=found.lifespan,
        middleware=found.middleware,
    )
    for handler in found.handlers:
        logger.info("%s: %s on %s", handler.qualified_name, handler.event_type, handler.stream)
    async with probes(listener):
        await listener.run(handle_signals=True)


async def _until_signal() -> None:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await stopping.wait()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """That of uvloop, if it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - it is not a dependency
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def configure_logs(level: str) -> None:
    """Log plain lines to standard error, unless a module has configured logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(_WithIds(_FORMAT))
    logging.basicConfig(level=level, handlers=[handler])


class _WithIds(logging.Formatter):
    """Adds the ids of the request that a line is about, unless its text has them."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; the ids follow the message."""
        known = {**log_context(), **record.__dict__}
        text = record.getMessage()
        ids = [f"{name}={known[name]}" for name in _IDS if known.get(name)]
        missing = [each for each in ids if each.partition("=")[2] not in text]
        if missing and "(request " not in text:
            record = logging.makeLogRecord({**record.__dict__, "args": ()})
            record.msg = f"{text} [{' '.join(missing)}]"
        return super().format(record)
