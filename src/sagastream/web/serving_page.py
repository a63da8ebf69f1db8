"""Serve the page over HTTP until SIGTERM or Ctrl-C."""

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path

import uvicorn

from sagastream.bus import Bus
from sagastream.errors import InvalidMessage, SagastreamError
from sagastream.web.access import LOOPBACK_NAMES
from sagastream.web.application import make_page
from sagastream.web.forwarded import ForwardedMiddleware, Network
from sagastream.web.impatient import ImpatientProtocol
from sagastream.web.tokens import is_guessable

_MAX_TOKEN_BYTES = 4096
_STOPPING_S = 2


class CannotListen(SagastreamError):
    """The address cannot be used."""


def read_token(path: Path | None, *, host: str) -> str:
    """Read the token of the page; '' if there is none, and none is needed.

    Args:
        path: The file with the token.
        host: The address to listen on.

    Raises:
        InvalidMessage: The file cannot be read, the token can be guessed, or other machines can
            reach the address and there is no token.
    """
    if path is None:
        if is_loopback(host):
            return ""
        raise InvalidMessage(
            "--token-file", f"required to listen on {host}, which other machines can reach"
        )
    try:
        with path.open(encoding="utf-8") as file:
            token = file.read(_MAX_TOKEN_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidMessage("--token-file", f"cannot read {path}: {reason}") from None
    if is_guessable(token):
        raise InvalidMessage(
            "--token-file",
            f"{path} must have 128 random bits, 22 letters and digits or 32 hex digits; make it: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return token


def listen(host: str, port: int, *, options: str = "--host, --port") -> socket.socket:
    """Listen on an address.

    Args:
        host: The address.
        port: The port; 0 for a free one.
        options: What an operator changes if it cannot be used.

    Raises:
        CannotListen: It cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotListen(f"{options}: cannot listen on {host} port {port}: {reason}") from error


async def serve_page(
    bus: Bus,
    listening: socket.socket,
    *,
    group: str,
    token: str,
    host: str,
    allowed_hosts: Collection[str] = (),
    proxies: Sequence[Network] = (),
    root_path: str = "",
    on_ready: Callable[[str], None],
) -> None:
    """Serve the page until SIGTERM or Ctrl-C.

    Args:
        bus: The server.
        listening: The socket to listen on.
        group: The consumer group of the listeners.
        token: The token that opens the page; '' if it is open.
        host: The address to listen on.
        allowed_hosts: More names by which clients may address the page. A page with a token and
            without such names may be addressed by any.
        proxies: The networks of the proxies whose X-Forwarded headers are believed.
        root_path: The path below which a proxy serves the page; '' for none.
        on_ready: Called with the address of the page.
    """
    names: tuple[str, ...] = tuple(allowed_hosts)
    if not token or names:
        names = (*LOOPBACK_NAMES, host, *names)
    page = make_page(bus, group=group, token=token, hosts=names)
    config = uvicorn.Config(
        ForwardedMiddleware(page, proxies=proxies, root_path=root_path),
        http=ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # ours takes the host, too
        timeout_graceful_shutdown=_STOPPING_S,
    )
    server = uvicorn.Server(config)
    # Its own handling would raise the signal again, after it has stopped.
    server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    port = listening.getsockname()[1]
    on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
    await server.serve(sockets=[listening])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
