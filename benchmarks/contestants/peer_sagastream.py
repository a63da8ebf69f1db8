"""sagastream: `request_and_reply` and a `CommandListener` with their defaults.

If the environment names an OTLP endpoint, it is traced with the application's providers.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import driver

from sagastream import Bus, Command, CommandListener, Progress, multi_stage_reply

STREAM = "benchmark:commands"


@multi_stage_reply(stream=STREAM, event_type="benchmark:echo")
async def echo(command: Command, _progress: Progress) -> dict[str, Any]:
    """Return the payload."""
    return command.payload


@multi_stage_reply(stream=STREAM, event_type="benchmark:progress")
async def report(command: Command, progress: Progress) -> dict[str, Any]:
    """Report ten stages, none of them coalesced."""
    for stage in range(10):
        await progress(stage / 10, {"stage": stage})
    return command.payload


@multi_stage_reply(stream=STREAM, event_type="benchmark:burn")
async def burn(command: Command, _progress: Progress) -> dict[str, Any]:
    """Use a millisecond of processor time."""
    driver.burn()
    return command.payload


async def work(url: str) -> None:
    """Serve all kinds of work."""
    async with Bus(url) as bus:
        listener = CommandListener(
            bus, [echo, report, burn], concurrency=256, progress_interval_s=0.0
        )
        await listener.run(handle_signals=True)


@contextlib.asynccontextmanager
async def asking(url: str) -> AsyncIterator[driver.Ask]:
    """Open a bus; requests for progress get each stage."""
    async with Bus(url) as bus:

        async def ask(work: str, payload: dict[str, Any]) -> Any:
            stages: list[Any] = []
            reply = await bus.request_and_reply(
                STREAM,
                f"benchmark:{work}",
                payload,
                on_progress=stages.append if work == "progress" else None,
            )
            if work == "progress" and len(stages) != 12:
                raise ValueError(
                    f"expected 12 stages (start, 10 of progress, end), got {len(stages)}"
                )
            return reply["payload"]

        yield ask


def trace(role: str) -> None:
    """Export spans as the application does, if an endpoint is set."""
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from app.config import get_settings  # noqa: PLC0415
        from app.observability import providers  # noqa: PLC0415

        providers.start(get_settings(), f"benchmark-{role}")


if __name__ == "__main__":
    chosen = driver.arguments()
    trace(chosen.role)
    if chosen.role == "worker":
        asyncio.run(work(chosen.url))
    else:
        asyncio.run(driver.serve_loads(asking(chosen.url)))
