"""A listener whose handler has limits, and tells how many of a key run at once."""

import asyncio
import os

from sagastream import Atomic, Bus, Command, CommandListener, Limit, Write, multi_stage_reply
from tests.faults.invariants import STREAM
from tests.faults.roles import increment

LEASE_S = 2.0
PER_KEY = 2
_ENTER = """
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('RPUSH', KEYS[2], cjson.encode(redis.call('SMEMBERS', KEYS[1])))
"""


def limited_listener(url: str, per_key: int, at_once: int) -> None:
    """A listener of many keys: two requests of a key at once, and 32 of all.

    Each handler writes who is in its key's room with it. A process that was killed leaves its
    members behind; they have its process id, and the reader knows which were dead by then.
    """

    async def listen() -> None:
        async with Bus(url) as bus:

            @multi_stage_reply(
                stream=STREAM,
                event_type="work:do",
                effect="atomic",
                limits=[Limit(concurrency=at_once), Limit(concurrency=per_key, per="key")],
            )
            async def work(command: Command) -> Atomic:
                room, member = (
                    f"room:{command.payload['key']}",
                    f"{os.getpid()} {command.request_id}",
                )
                await bus.command("EVAL", _ENTER, 2, room, "seen", member, timeout=60.0)
                await asyncio.sleep(command.payload["work_s"])
                effect: Write = await increment(bus, "effects", command.request_id)
                await bus.command("SREM", room, member, timeout=60.0)
                return Atomic({}, (effect,))

            listener = CommandListener(bus, [work], concurrency=32, lease_s=LEASE_S)
            await listener.run(handle_signals=True)

    asyncio.run(listen())
