"""sagastream: `delay_s`, a schedule of the handler, and a limit by key."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import waiting

from sagastream import Bus, Command, CommandListener, Limit, Schedule, multi_stage_reply

STREAM = "work:commands"


async def work(url: str) -> None:
    """Handle requests."""
    notes = waiting.Notes(url)
    at_once = [Limit(concurrency=waiting.AT_ONCE, per="key")]

    @multi_stage_reply(stream=STREAM, event_type="work:later")
    async def later(command: Command) -> None:
        await notes.add(command.payload["due"])

    @multi_stage_reply(stream=STREAM, event_type="work:limited", limits=at_once)
    async def limited(_command: Command) -> None:
        await notes.add(0.0)
        await asyncio.sleep(waiting.WORK_S)

    @multi_stage_reply(
        stream=STREAM,
        event_type="work:tick",
        schedules=[Schedule(name="tick", cron="* * * * *")],
    )
    async def tick(_command: Command) -> None:
        await notes.add(60 * (time.time() // 60))

    async with Bus(url) as bus:
        handlers = [later, limited, tick]
        await CommandListener(bus, handlers, concurrency=waiting.SLOTS).run(handle_signals=True)


@contextlib.asynccontextmanager
async def adding(url: str) -> AsyncIterator[waiting.Add]:
    """Open a bus."""
    async with Bus(url) as bus:

        async def add(key: str, due: float) -> None:
            await bus.emit_command(
                STREAM,
                event_type="work:later" if due else "work:limited",
                payload={"key": key, "due": due},
                delay_s=max(0.0, due - time.time()) if due else None,
            )

        yield add


if __name__ == "__main__":
    waiting.main(work, adding)
