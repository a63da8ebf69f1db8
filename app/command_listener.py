"""The command listener process: it runs the mission's handlers and resumes unattended missions."""

if __name__ == "__main__":
    # A signal during the imports below ends the process without a traceback.
    from app.shutdown import shutdown

    shutdown.install()

import asyncio
import sys

from app.config import get_settings, settings_or_exit
from app.event_types import ROUTING_PLAN
from app.missions.mission_saga import mission_runner
from app.observability.gauges import ServerGauges
from app.observability.health import serve_probes
from app.observability.providers import configure
from app.redis_utils import get_bus, run_listener
from app.shutdown import shutdown
from sagastream import CommandListener, discover


async def listen() -> None:
    """Run every handler of the configured package until SIGTERM or SIGINT.

    Also send a new task for each open mission that no worker drives: its worker died, or its
    task was lost.
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
        background = [mission_runner().serve()]
        if settings.exports_metrics or settings.http_port:
            gauges = ServerGauges(bus, settings.step_streams, mission_runner())
            background.append(gauges.watch())
        if any(handler.event_type == ROUTING_PLAN for handler in handlers):
            background.append(asyncio.to_thread(_warm_up))
        tasks = [asyncio.create_task(each) for each in background]
        try:
            async with serve_probes(settings, settings.step_streams):
                await run_listener(listener, drain_s=settings.listener_drain_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def _warm_up() -> None:
    """Explore a small floor once, so that jitted code is compiled before the first mission."""
    # Only a process that plans routes has these imported anyway.
    from app.exploration.simulation.floor_plans import draw_rooms  # noqa: PLC0415
    from app.exploration.simulation.simulate import simulate  # noqa: PLC0415

    simulate(draw_rooms(1), 1, 0)


def main() -> None:
    """Run `python -m app.command_listener`."""
    configure(settings_or_exit(), "command-listener")
    asyncio.run(listen())
    sys.exit(shutdown.exit_code)


if __name__ == "__main__":
    main()
