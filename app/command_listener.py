"""The process that runs the mission's command handlers, and looks after open missions."""

import asyncio

from app.checks import mission_streams
from app.config import get_settings
from app.gauges import ServerGauges
from app.health import watched
from app.logging_config import configure
from app.redis_utils import get_bus
from app.saga import mission_runner
from sagastream import CommandListener, discover
from sagastream.connection import end


async def listen() -> None:
    """Run every handler of the configured package until SIGTERM.

    Missions that nobody is at, as their worker died or their task was lost, get a new task.
    """
    settings = get_settings()
    async with get_bus() as bus:
        listener = CommandListener(
            bus,
            discover(settings.handler_package),
            concurrency=settings.listener_concurrency,
            lease_s=settings.lease_s,
            drain_s=settings.listener_drain_s,
        )
        beside = [mission_runner().serve()]
        if settings.exports_metrics or settings.http_port:
            beside.append(ServerGauges(bus, mission_streams(settings), "mission").watch())
        running = [asyncio.create_task(one) for one in beside]
        try:
            async with watched(settings, mission_streams(settings)):
                await listener.run()
        finally:
            await end(*running)


def main() -> None:
    """Entry point of `python -m app.command_listener`."""
    configure(get_settings(), "command-listener")
    asyncio.run(listen())


if __name__ == "__main__":
    main()
