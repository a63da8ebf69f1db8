"""`running`: a listener for as long as a test's block lasts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sagastream.listener import CommandListener


@asynccontextmanager
async def running(listener: CommandListener) -> AsyncIterator[CommandListener]:
    """Run a listener for as long as the context lasts, then stop it gracefully.

        @multi_stage_reply(stream="echo:commands", event_type="echo:say")
        async def say(command: Command, progress: Progress) -> dict[str, Any]:
            return command.payload

        async with running(CommandListener(bus, [say])):
            reply = await bus.request_and_reply("echo:commands", "echo:say", {})

    It may not be listening yet when the body begins: commands wait for it. If it ends with an
    error, the body is cancelled, and the error is raised here.

    Args:
        listener: A listener that does not run yet.

    Raises:
        ServerUnavailable: The server cannot be reached at the start.
    """
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(listener.run())
            try:
                yield listener
            finally:
                listener.stop()
                await asyncio.wait([task])
    except BaseExceptionGroup as errors:
        # A test wants the error itself: the group has one, unless body and listener both failed.
        if len(errors.exceptions) > 1:
            raise
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
