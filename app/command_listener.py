"""The command listener process: it runs the mission's handlers and resumes unattended missions."""

if __name__ == "__main__":
    # A signal during the imports below ends the process without a traceback.
    from app.shutdown import shutdown

    shutdown.install()

import asyncio
import sys
from collections.abc import Collection

from app.config import get_settings, settings_or_exit
from app.event_types import MAP_INTEGRATE, ROUTING_PLAN
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
        served = {handler.event_type for handler in handlers}
        background.append(asyncio.to_thread(_warm_up, served))
        tasks = [asyncio.create_task(each) for each in background]
        try:
            async with serve_probes(settings, settings.step_streams):
                await run_listener(listener, drain_s=settings.listener_drain_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def _warm_up(served: Collection[str]) -> None:
    """Do now what the first mission would wait for: compile, import, and read definitions.

    Args:
        served: The event types that this process handles.
    """
    # Only a process that handles these commands imports what they need.
    if ROUTING_PLAN in served:
        from app.exploration.simulation.floor_plans import draw_rooms  # noqa: PLC0415
        from app.exploration.simulation.simulate import simulate  # noqa: PLC0415

        simulate(draw_rooms(1), 1, 0)
    if MAP_INTEGRATE in served and get_settings().record_mcap:
        from app.export import mission_files, ros_messages  # noqa: F401, PLC0415

        ros_messages.typestore()


def main() -> None:
    """Run `python -m app.command_listener`."""
    configure(settings_or_exit(), "command-listener")
    asyncio.run(listen())
    sys.exit(shutdown.exit_code)


if __name__ == "__main__":
    main()
