"""A listener that fires schedules, and counts the effect of each firing."""

import asyncio

from sagastream import Atomic, Bus, Command, CommandListener, Handler
from tests.faults.invariants import STREAM
from tests.faults.roles import increment

LEASE_S = 0.6


def scheduled_listener(url: str) -> None:
    """A listener whose atomic handler counts the requests by their ids."""

    async def listen() -> None:
        async with Bus(url, call_timeout_s=1.0) as bus:

            async def work(command: Command) -> Atomic:
                return Atomic({}, (await increment(bus, "effects", command.request_id),))

            handler = Handler(STREAM, "work:do", work, effect="atomic")
            await CommandListener(bus, [handler], lease_s=LEASE_S).run(handle_signals=True)

    asyncio.run(listen())
