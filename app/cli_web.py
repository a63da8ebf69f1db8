"""`mission serve`: missions over HTTP, beside workers that run."""

import asyncio
import ipaddress
from typing import Annotated

import typer
import uvicorn

from app.cli_base import EXIT_USAGE, app, guarded, leave, settings_of_command
from app.config import choose_settings
from app.redis_utils import get_bus
from app.web.api import make_app


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="WEB_HOST otherwise.")] = None,
    port: Annotated[int | None, typer.Option(help="WEB_PORT otherwise.")] = None,
) -> None:
    """Serve missions over HTTP, until Ctrl-C; beyond this machine only with WEB_TOKEN.

    Example: REDIS_URL=redis://127.0.0.1:6379/0 mission serve --port 8080
    """
    settings_of_command()
    given = {"web_host": host, "web_port": port}
    settings = choose_settings(
        **{name: value for name, value in given.items() if value is not None}
    )
    if not settings.web_token and not _is_loopback(settings.web_host):
        leave(
            EXIT_USAGE, f"WEB_TOKEN: set one to serve on {settings.web_host}, beyond this machine"
        )
    config = uvicorn.Config(
        make_app(settings),
        host=settings.web_host,
        port=settings.web_port,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
    )

    async def answer() -> None:
        await get_bus().ping()
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True  # it ends what it is at, and answers nobody new
            await serving
            raise

    guarded(answer(), "stopped")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
