"""A handler that takes longer than a person waits."""

import asyncio
import os

from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream="slow:commands", event_type="slow:wait")
async def wait(command: Command, progress: Progress) -> None:
    """Report the process that runs it, then wait for a minute."""
    await progress(0.0, {"pid": os.getpid()})
    await asyncio.sleep(60)
