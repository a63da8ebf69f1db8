"""`mission serve`: the web server with pages and API; also started by `mission run`."""

import asyncio
import os
import resource
import secrets
import socket
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.base import EXIT_ERROR, EXIT_USAGE, app, leave, run_or_exit, settings_of_command
from app.cli.kept_missions import kept_data
from app.config import ROOT, Settings, choose_settings
from app.missions.mission_ids import full_id
from app.redis_utils import get_bus
from app.shutdown import kill_groups, shutdown
from sagastream.testing import child_options

LAYOUT = ROOT / "deploy" / "foxglove-layout.json"
# Files and sockets that are open beside the event streams.
_OTHER_FILES = 1000


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Default: WEB_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: WEB_PORT.")] = None,
    mission: Annotated[
        str, typer.Option(help="The id of a mission that `mission run` has kept, or its beginning.")
    ] = "",
    foxglove: Annotated[
        int | None,
        typer.Option(
            help="Also show a mission live in Foxglove, on this port and machine only: the one "
            "that --mission names, else the newest that runs.",
            min=0,
            max=65535,
        ),
    ] = None,
) -> None:
    """Serve pages and HTTP API until Ctrl-C; other machines can connect only if WEB_TOKEN is set.

    Without REDIS_URL it serves what DATA_DIR has: the missions of `mission dev`, or one of
    `mission run`, which --mission names.

    Example: REDIS_URL=redis://127.0.0.1:6379/0 mission serve --port 8080
    """
    # Imported here: slow imports that no other command needs.
    from sagastream.web.serving_page import is_loopback  # noqa: PLC0415
    from sagastream.web.tokens import is_guessable  # noqa: PLC0415

    settings_of_command()
    given = {"web_host": host, "web_port": port}
    settings = choose_settings(
        **{name: value for name, value in given.items() if value is not None}
    )
    if settings.web_token_file and not settings.web_token:
        settings = choose_settings(web_token=_new_token(settings.web_token_file))
    if not settings.web_token and not is_loopback(settings.web_host):
        leave(
            EXIT_USAGE,
            f"WEB_TOKEN: required to serve on {settings.web_host}, which other machines can reach; "
            "or name a file for a new one: WEB_TOKEN_FILE",
        )
    if settings.web_token and is_guessable(settings.web_token):
        leave(
            EXIT_USAGE,
            "WEB_TOKEN: give 128 random bits, 22 letters and digits or 32 hex digits, such as: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    with kept_data(mission):
        _serve(choose_settings(), foxglove, mission)


def _serve(settings: Settings, foxglove_port: int | None, mission: str) -> None:
    """Serve with these settings until Ctrl-C."""
    # Imported here: slow imports that no other command needs.
    import uvicorn  # noqa: PLC0415

    from app.web.api import make_app  # noqa: PLC0415
    from sagastream.web.impatient import ImpatientProtocol  # noqa: PLC0415
    from sagastream.web.serving_page import CannotListen, listen  # noqa: PLC0415

    try:
        web = make_app(settings)
    except ValueError as error:
        leave(EXIT_USAGE, f"WEB_PROXIES: {error}; give addresses or networks, separated by commas")
    config = uvicorn.Config(
        web,
        http=ImpatientProtocol,
        ws="none",
        log_config=None,
        server_header=False,
        proxy_headers=not settings.web_proxies,  # ours takes the host, too
        timeout_graceful_shutdown=2,
    )

    try:
        listening = listen(settings.web_host, settings.web_port, options="WEB_HOST, WEB_PORT")
    except CannotListen as error:
        leave(EXIT_ERROR, str(error))

    async def serve_until_stopped() -> None:
        await get_bus().ping()
        _allow_sockets(settings)
        live = None
        if foxglove_port is not None:
            live = asyncio.create_task(await _begin_live(foxglove_port, mission))
        server = uvicorn.Server(config)
        # Signals belong to this command.
        server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        print(
            f"http://{settings.web_host}:{listening.getsockname()[1]}/; Ctrl-C stops it", flush=True
        )
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            if live:
                live.cancel()
                await asyncio.wait([live])
            server.should_exit = True  # finishes running requests, accepts no new ones
            await web.state.events.close()
            await serving
            raise

    run_or_exit(serve_until_stopped(), "stopped")


async def _begin_live(port: int, mission: str) -> Coroutine[Any, Any, None]:
    """Listen for Foxglove; return what follows the missions. An error ends the command."""
    try:
        # Imported here: an extra that nothing else needs.
        from app.export.foxglove_server import FoxgloveServer  # noqa: PLC0415
    except ModuleNotFoundError:
        leave(EXIT_USAGE, "--foxglove: foxglove-sdk is not installed: pip install foxglove-sdk")
    from app.export.live_missions import LiveMissions  # noqa: PLC0415

    saga_id = await full_id(mission) if mission else ""
    try:
        server = FoxgloveServer(port)
    except OSError as error:
        leave(EXIT_ERROR, f"--foxglove: {error}")
    print(f"ws://127.0.0.1:{server.port} for Foxglove; its layout: {LAYOUT}", flush=True)

    async def follow() -> None:
        try:
            await LiveMissions(server, saga_id).run()
        finally:
            await asyncio.to_thread(server.stop)

    return follow()


@contextmanager
def serve_page(saga_id: str, settings: Settings) -> Iterator[None]:
    """Serve the pages on a free port while the context is open; print the mission's URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    overrides = {"WEB_HOST": "127.0.0.1", "WEB_PORT": str(port), "WEB_TOKEN": ""}
    server = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"],
        cwd=ROOT,
        env=settings.environment() | overrides,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **child_options(),
    )
    print(f"http://127.0.0.1:{port}/missions/{saga_id}", file=sys.stderr)
    try:
        with shutdown.killing(lambda: kill_groups([server.pid])):
            yield
    finally:
        # After a Ctrl-C the time is for the mission. The server keeps nothing that can be lost.
        (server.kill if shutdown.number else server.terminate)()
        server.wait()


def _new_token(path: Path) -> str:
    """Write a new token to a file that only this user can read; return it."""
    token = secrets.token_urlsafe(32)
    try:
        with open(path, "x", opener=_for_this_user) as file:
            file.write(f"{token}\n")
    except OSError as error:
        leave(EXIT_ERROR, f"WEB_TOKEN_FILE: cannot make {path}: {error.strerror}")
    print(f"mission: made a new token, in {path}", file=sys.stderr)
    return token


def _for_this_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _allow_sockets(settings: Settings) -> None:
    """Raise the limit on open files to what the event streams need, as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.web_streams + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
