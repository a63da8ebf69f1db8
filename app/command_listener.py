"""The process that runs the mission's command handlers, and looks after open missions."""

import asyncio

from app.config import get_settings
from app.logging_config import configure
from app.missions.mission_saga import mission_runner
from app.observability.doctor import mission_streams
from app.observability.gauges import ServerGauges
from app.observability.health import watched
from app.redis_utils import get_bus
from sagastream import CommandListener, discover
from sagastream._redis.retrying import end_tasks


async def listen() -> None:
    """Run every handler of the configured package until SIGTERM.

    Missions that nobody is at, as their worker died or their task was lost, get a new task.
    """
    settings = get_settings()
    async with get_bus() as bus:
        handlers = discover(settings.handler_package)
        listener = CommandListener(
            bus,
            handlers,
            concurrency=settings.listener_concurrency,
            lease_s=settings.lease_s,
            drain_s=settings.listener_drain_s,
        )
        beside = [mission_runner().serve()]
        if settings.exports_metrics or settings.http_port:
            beside.append(ServerGauges(bus, mission_streams(settings), "mission").watch())
        if any(handler.event_type == "routing:plan" for handler in handlers):
            beside.append(asyncio.to_thread(_practise))
        running = [asyncio.create_task(one) for one in beside]
        try:
            async with watched(settings, mission_streams(settings)):
                await listener.run()
        finally:
            await end_tasks(*running)


def _practise() -> None:
    """Explore once, while robots get ready: what is compiled for that is, or is loaded."""
    from app.exploration.simulation.floor_plans import draw_rooms  # noqa: PLC0415 - who plans has it imported
    from app.exploration.simulation.simulate import simulate  # noqa: PLC0415

    simulate(draw_rooms(1), 1, 0)


def main() -> None:
    """Entry point of `python -m app.command_listener`."""
    configure(get_settings(), "command-listener")
    asyncio.run(listen())


if __name__ == "__main__":
    main()
