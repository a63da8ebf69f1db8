"""`sagastream run` and `sagastream dev`: run handlers, alone or with a server for development."""

import argparse
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sagastream.cli.arguments import port_number, positive, seconds
from sagastream.cli.output import print_hint
from sagastream.cli.server_address import environment_with, server_url
from sagastream.cli.serving import serve
from sagastream.cli.supervisor import supervise
from sagastream.errors import SagastreamError
from sagastream.testing import child_options

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class CannotServe(SagastreamError):
    """There is no server to develop with."""


def add_verbs(add: Callable[..., Any]) -> None:
    """Add `run` and `dev`."""
    run = add(
        "run",
        "Run the handlers of modules, and drive their sagas, until SIGTERM or Ctrl-C.",
        "run shop.handlers --concurrency 16",
    )
    _add_common(run, "+")
    run.parser.set_defaults(run=_run)
    run.option("--reload", action="store_true", help="restart when a .py file changes")
    run.option(
        "--health-port",
        type=port_number,
        default=0,
        metavar="PORT",
        help="serve /healthz and /readyz there",
    )
    run.option(
        "--health-host", default="127.0.0.1", metavar="HOST", help="the address of --health-port"
    )
    dev = add(
        "dev",
        "Run a server that keeps its data in a folder, the page, and handlers, which restart when "
        "they change.",
        "dev shop.handlers --data .sagastream",
    )
    _add_common(dev, "*")
    dev.parser.set_defaults(run=_dev)
    dev.option("--data", type=Path, default=".sagastream", metavar="DIR", help="where its data are")
    dev.option("--port", type=port_number, default=6379, help="its port, on this machine only")
    dev.option(
        "--page-port",
        type=port_number,
        default=8400,
        metavar="PORT",
        help="the page's port; a free one if another program uses it",
    )
    dev.option("--no-reload", action="store_true", help="do not restart the handlers")


def _add_common(verb: Any, how_many: str) -> None:
    verb.argument(
        "modules", "a module or package with handlers, such as shop.handlers", nargs=how_many
    )
    verb.option(
        "--concurrency", type=positive, default=64, help="how many commands are handled at once"
    )
    verb.option("--group", default="sagastream", help="the consumer group of the listeners")
    verb.option(
        *("--drain",),
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long handlers may go on after SIGTERM",
    )
    verb.option("--log-level", choices=_LEVELS, default="INFO", help="the least level of log lines")


def _run(options: argparse.Namespace) -> int:
    if options.reload:
        return supervise(_command(options), url=server_url(options.url), folders=[Path.cwd()])
    return serve(options)


def _command(options: argparse.Namespace) -> list[str]:
    """The command that runs the handlers in a child process; it gets the URL by its environment."""
    namespace = ["--namespace", options.namespace] if options.namespace else []
    command = [sys.executable, "-m", "sagastream.cli", *namespace, "run"]
    command += [*options.modules, "--concurrency", str(options.concurrency)]
    command += ["--group", options.group, "--drain", str(options.drain)]
    command += ["--log-level", options.log_level]
    if getattr(options, "health_port", 0):
        command += ["--health-port", str(options.health_port), "--health-host", options.health_host]
    return command


@contextlib.contextmanager
def _page(options: argparse.Namespace, url: str) -> Iterator[None]:
    """Serve the page in a child process; its address is the first line that it prints."""
    if importlib.util.find_spec("starlette") is None:
        print_hint("there is no page: pip install 'sagastream[dev]'")
        yield
        return
    command = [sys.executable, "-m", "sagastream.cli", "--namespace", options.namespace, "serve"]
    command += ["--port", str(_free_port(options.page_port)), "--group", options.group]
    process = subprocess.Popen(command, env=environment_with(url), **child_options())  # noqa: S603
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _free_port(port: int) -> int:
    """The port, or 0 for any if another program uses it."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return 0
    return port


def _dev(options: argparse.Namespace) -> int:
    try:
        from sagastream.testing import EmbeddedServer  # noqa: PLC0415 - it is an extra
    except ImportError as error:
        raise CannotServe(f"{error}; pip install 'sagastream[dev]'") from error
    try:
        server = EmbeddedServer(aof=True, port=options.port, folder=options.data).start()
    except (RuntimeError, OSError) as error:
        text = str(error)
        if "Address already in use" in text:
            text = f"port {options.port} is in use; give another one with --port"
        raise CannotServe(text) from error
    try:
        url = f"redis://127.0.0.1:{options.port}/0" if options.port else server.url
        where = os.path.relpath(options.data)
        print_hint(f"a server runs at {url}, and keeps its data in {where}; Ctrl-C ends it")
        folders = [] if options.no_reload else [Path.cwd()]
        with _page(options, url):
            return supervise(_command(options) if options.modules else [], url=url, folders=folders)
    finally:
        server.close()
