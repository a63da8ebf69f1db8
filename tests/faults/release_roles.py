"""A listener and a requester that run with any release of the library, by its public names alone.

PYTHONPATH=<the release's src> python tests/faults/release_roles.py listener URL
PYTHONPATH=<the release's src> python tests/faults/release_roles.py requester URL PREFIX COUNT
"""

import asyncio
import inspect
import sys
from typing import Any

from sagastream import (
    Atomic,
    Bus,
    Command,
    CommandListener,
    Progress,
    ServerUnavailable,
    Write,
    multi_stage_reply,
)

_STREAM = "work:commands"
_LEASE_S = 0.6


async def _listen(url: str) -> None:
    async with Bus(url) as bus:

        @multi_stage_reply(stream=_STREAM, event_type="work:do", effect="atomic")
        async def work(command: Command, progress: Progress) -> Atomic:
            await progress(0.5)
            await asyncio.sleep(0.3)
            field = command.request_id
            found = await bus.command("HGET", "effects", field, timeout=60.0)
            before = found.decode() if found else None
            after = str(int(before or 0) + 1)
            return Atomic({}, (Write("effects", after, expected=before, field=field),))

        listener = CommandListener(bus, [work], concurrency=4, lease_s=_LEASE_S, max_deliveries=50)
        # Releases before this one always handle signals.
        can_choose = "handle_signals" in inspect.signature(listener.run).parameters
        options: dict[str, Any] = {"handle_signals": True} if can_choose else {}
        await listener.run(**options)


async def _request(url: str, prefix: str, count: int) -> None:
    async with Bus(url) as bus:

        async def one(number: int) -> None:
            while True:
                try:
                    await bus.request_and_reply(
                        _STREAM,
                        "work:do",
                        {"number": number},
                        120,
                        request_id=f"{prefix}{number}",
                        correlation_id="c",
                        on_progress=(lambda _: None) if number % 2 else None,
                    )
                except ServerUnavailable:
                    continue
                return

        await asyncio.gather(*(one(number) for number in range(count)))


if __name__ == "__main__":
    role, server_url, *arguments = sys.argv[1:]
    if role == "listener":
        asyncio.run(_listen(server_url))
    else:
        asyncio.run(_request(server_url, arguments[0], int(arguments[1])))
