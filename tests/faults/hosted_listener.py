"""A web application with a listener in its lifespan, for uvicorn; SERVER_URL names the server."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from sagastream import Atomic, Bus, Command, CommandListener, Handler, Progress
from tests.faults.roles import increment

_STREAM = "work:commands"


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with Bus(os.environ["SERVER_URL"]) as bus:

        async def work(command: Command, progress: Progress) -> Atomic:
            await progress(0.5)
            await asyncio.sleep(0.2)
            return Atomic({}, (await increment(bus, "effects", command.request_id),))

        handler = Handler(_STREAM, "work:do", work, effect="atomic")
        async with CommandListener(bus, [handler], lease_s=5.0, drain_s=0.1, concurrency=4):
            yield


app = FastAPI(lifespan=_lifespan)
