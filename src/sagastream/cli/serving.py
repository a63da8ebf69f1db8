"""Run the handlers of modules in this process, and drive their sagas."""

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from sagastream._redis.retrying import end_tasks
from sagastream._telemetry.log_context import log_context
from sagastream.bus import Bus
from sagastream.cli.probes import serve_probes
from sagastream.errors import InvalidMessage, RegistrationError, SagastreamError
from sagastream.handlers import discover
from sagastream.listener import CommandListener
from sagastream.saga import Saga, SagaRunner

logger = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_IDS = ("request_id", "correlation_id", "saga_id", "step", "attempt")


class WrongUrl(SagastreamError):
    """The URL does not name a server."""


def make_bus(options: argparse.Namespace, *, call_timeout_s: float = 10.0) -> Bus:
    """The bus of `--url` and `--namespace`.

    Raises:
        WrongUrl: The URL does not name a server. The error does not show it: it may have a password.
        InvalidMessage: The namespace is invalid.
    """
    try:
        return Bus(options.url, namespace=options.namespace, call_timeout_s=call_timeout_s)
    except InvalidMessage:
        raise
    except ValueError as error:
        raise WrongUrl(
            "--url must be redis://HOST:PORT/0, rediss://HOST:PORT/0, unix:///PATH, "
            "redis+sentinel://HOST:PORT/SERVICE or redis+cluster://HOST:PORT; write special "
            "characters of a password in hexadecimal, such as / as %2F"
        ) from error


def serve(options: argparse.Namespace) -> int:
    """Run the handlers until SIGTERM or Ctrl-C; returns the exit code.

    What a module calls `lifespan` and `middleware` belongs to the listener.

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
        sagas: Their sagas, by name.
        lifespan: The lifespan of the listener.
        middleware: The middleware of the listener.

    Raises:
        RegistrationError: A module cannot be imported, or there are neither handlers nor sagas.
    """

    def __init__(self, modules: list[str]) -> None:
        self.handlers: list[Any] = []
        self.sagas: dict[str, Saga] = {}
        self.lifespan: Any = None
        self.middleware: list[Any] = []
        for name in modules:
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError as error:
                raise RegistrationError(f"{name!r} cannot be imported: {error}") from error
            values = vars(module)
            self.sagas |= {each.name: each for each in values.values() if isinstance(each, Saga)}
            self.lifespan = values.get("lifespan") or self.lifespan
            self.middleware += values.get("middleware") or []
            with contextlib.suppress(RegistrationError) if self.sagas else contextlib.nullcontext():
                self.handlers += [each for each in discover(name) if each not in self.handlers]


async def _serve(options: argparse.Namespace, found: Found) -> None:
    async with make_bus(options) as bus:
        await bus.ping()
        for name in found.sagas:
            logger.info("driving the sagas of %s that no process works on", name)
        driving = [
            asyncio.create_task(SagaRunner(bus, saga).serve()) for saga in found.sagas.values()
        ]
        try:
            await _listen(bus, options, found)
        finally:
            await end_tasks(*driving)


async def _listen(bus: Bus, options: argparse.Namespace, found: Found) -> None:
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
    async with serve_probes(bus, listener, options.health_host, options.health_port):
        await listener.run(handle_signals=True)


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
