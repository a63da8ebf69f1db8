"""`mission dev`: server, workers and page in one command and one terminal."""

from contextlib import ExitStack
from typing import Annotated

import typer

from app.cli.base import EXIT_ERROR, app, leave, run_or_exit, settings_of_command
from app.cli.dev_server import announced, folder_of
from app.cli.kept_missions import kept_server
from app.cli.part_output import PartOutput
from app.cli.workers import KINDS, Workers
from app.config import choose_settings
from app.redis_utils import get_bus
from app.shutdown import GRACE_S


@app.command()
def dev(
    *,
    port: Annotated[int | None, typer.Option(help="The page's port; default: WEB_PORT.")] = None,
) -> None:
    """Run a server, all workers and the page until Ctrl-C, and show what each of them writes.

    The server keeps its missions in DATA_DIR. Meanwhile `mission run`, `start`, `list` and all
    other commands use it, unless REDIS_URL names another; afterwards `list`, `show`, `replay` and
    `serve` still find its missions. Open missions continue at the next start.

    Example: mission dev --port 8080
    """
    settings = settings_of_command(embedded=True, dev=False)
    if "redis_url" in settings.model_fields_set:
        leave(2, "REDIS_URL: `mission dev` runs its own server; use `mission workers` and `serve`")
    if port is not None:
        settings = choose_settings(web_port=port)
    if "log_level" not in settings.model_fields_set:
        settings = choose_settings(log_level="INFO")
    _require_free(settings.web_host, settings.web_port)
    output = PartOutput()
    with ExitStack() as stack:
        folder = folder_of(settings)
        url = stack.enter_context(kept_server(folder))
        settings = choose_settings(redis_url=url)
        stack.enter_context(announced(settings))
        output.say("server", f"runs at {url}; its data are in {folder}")

        async def supervise() -> None:
            async with get_bus() as bus:
                await bus.ping()
                with Workers(settings, KINDS | {"page"}, output=output) as running:
                    await running.ready()
                    page = f"http://{settings.web_host}:{settings.web_port}/"
                    output.say("dev", f"ready: {page} (Ctrl-C stops everything)")
                    output.say("dev", "or in another terminal: mission run --area office")
                    await running.keep()

        run_or_exit(supervise(), "stopped", grace_s=settings.listener_drain_s + GRACE_S)


def _require_free(host: str, port: int) -> None:
    """End the command if the page could not be served."""
    # Imported here: slow, and no other command needs it.
    from sagastream.web.serving_page import CannotListen, listen  # noqa: PLC0415

    try:
        listen(host, port, options="WEB_HOST, WEB_PORT").close()
    except CannotListen as error:
        leave(EXIT_ERROR, f"{error}; give another: --port")
