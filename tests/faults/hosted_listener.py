"""A web application with a listener in its lifespan, for uvicorn; SERVER_URL names the server."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from sagastream import Atomic, Bus, Command, CommandListener, Handler, Progress, Write

_STREAM = "work:commands"


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with Bus(os.environ["SERVER_URL"]) as bus:

        async def work(command: Command, progress: Progress) -> Atomic:
            await progress(0.5)
            await asyncio.sleep(0.2)
            field = command.request_id
            found = await bus.command("HGET", "effects", field, timeout=60.0)
            before = found.decode() if found else None
            after = str(int(before or 0) + 1)
            return Atomic({}, (Write("effects", after, expected=before, field=field),))

        handler = Handler(_STREAM, "work:do", work, effect="atomic")
        async with CommandListener(bus, [handler], lease_s=5.0, drain_s=0.1, concurrency=4):
            yield


app = FastAPI(lifespan=_lifespan)
