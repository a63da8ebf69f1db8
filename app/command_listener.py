"""The process that runs the mission's command handlers."""

import asyncio

from app.config import get_settings
from app.logging_config import configure
from app.redis_utils import get_bus
from sagastream import CommandListener, discover


async def listen() -> None:
    """Run every handler of the configured package until SIGTERM."""
    settings = get_settings()
    async with get_bus() as bus:
        await CommandListener(
            bus,
            discover(settings.handler_package),
            concurrency=settings.listener_concurrency,
            drain_s=settings.listener_drain_s,
        ).run()


def main() -> None:
    """Entry point of `python -m app.command_listener`."""
    configure(get_settings(), "command-listener")
    asyncio.run(listen())


if __name__ == "__main__":
    main()
