"""`sagastream serve`: the page for operators."""

import argparse
import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sagastream.cli.arguments import port_number
from sagastream.cli.output import print_error, print_hint
from sagastream.cli.serving import configure_logs, make_bus
from sagastream.errors import InvalidMessage, SagastreamError

_CALL_TIMEOUT_S = 3.0
_USAGE = 2


class ExtraMissing(SagastreamError):
    """What the page needs is not installed."""


def add_verb(add: Callable[..., Any]) -> None:
    """Add `serve`."""
    verb = add(
        "serve",
        "Serve a page that shows requests, sagas, dead letters and listeners, with the same actions "
        "as the verbs; other machines can connect only with a token.",
        "serve --port 8400",
    )
    verb.parser.set_defaults(run=_serve)
    verb.option("--host", default="127.0.0.1", help="the address to listen on")
    verb.option("--port", type=port_number, default=8400, help="the port; 0 for a free one")
    verb.option(
        "--token-file", type=Path, metavar="FILE", help="the token that opens the page is in it"
    )
    verb.option(
        *("--allow-host",),
        action="append",
        metavar="NAME",
        help="a name by which clients may address the page; may be repeated",
    )
    verb.option(
        *("--proxy",),
        action="append",
        metavar="NETWORK",
        help="the address or network of a proxy whose X-Forwarded headers are believed; may be "
        "repeated",
    )
    verb.option(
        "--root-path",
        type=_root_path,
        default="",
        metavar="PATH",
        help="the path below which a proxy serves the page, such as /jobs",
    )
    verb.grouped()


def _root_path(text: str) -> str:
    if text and not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)+", text):
        raise argparse.ArgumentTypeError(f"{text!r} must begin with / and not end with it")
    return text


def _serve(options: argparse.Namespace) -> int:
    try:
        from sagastream.web.forwarded import networks_of  # noqa: PLC0415
        from sagastream.web.serving_page import listen, read_token, serve_page  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing(f"{error}; pip install 'sagastream[serve]'") from error
    try:
        token = read_token(options.token_file, host=options.host)
        proxies = networks_of(",".join(options.proxy or ()))
    except InvalidMessage as error:
        print_error(str(error))
        return _USAGE
    except ValueError as error:
        print_error(f"--proxy: {error}")
        return _USAGE
    configure_logs("WARNING")

    async def run() -> None:
        async with make_bus(options, call_timeout_s=_CALL_TIMEOUT_S) as bus:
            await bus.ping()
            with listen(options.host, options.port) as listening:
                await serve_page(
                    bus,
                    listening,
                    group=options.group,
                    token=token,
                    host=options.host,
                    allowed_hosts=options.allow_host or (),
                    proxies=proxies,
                    root_path=options.root_path,
                    on_ready=lambda address: print_hint(f"{address} is ready; Ctrl-C ends it"),
                )

    asyncio.run(run())
    return 0
