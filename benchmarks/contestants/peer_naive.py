"""A minimal loop with redis-py: streams in both directions, and a map of futures.

It has no stage, record, fence or deadline; the commands of a dead worker stay pending. With
`--coalesced` all writes of one tick of the loop go in one pipeline; nothing else differs.
"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import driver
import redis.asyncio
from redis.exceptions import ResponseError

COMMANDS, GROUP = "commands", "workers"
AT_ONCE, BLOCK_MS = 64, 1000
# With the default of 100, more requests in flight are an error.
CONNECTIONS = 1000


class Tick:
    """Collects the commands of one tick of the loop into one pipeline."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def __call__(self, *commands: tuple[Any, ...]) -> None:
        """Send commands together with the others of this tick."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        sent = loop.create_future()
        self._waiting += [(command, sent) for command in commands]
        await sent

    def _flush(self) -> None:
        task = asyncio.create_task(self._send(self._waiting))
        self._waiting = []
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, waiting: list[tuple[tuple[Any, ...], asyncio.Future[None]]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for command, _ in waiting:
            pipeline.execute_command(*command)
        await pipeline.execute()
        for _, sent in waiting:
            if not sent.done():
                sent.set_result(None)


class Direct:
    """Sends the commands of each call in a separate pipeline."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def __call__(self, *commands: tuple[Any, ...]) -> None:
        """Send commands at once."""
        if len(commands) == 1:
            await self._client.execute_command(*commands[0])
            return
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        await pipeline.execute()


async def work(url: str, how: type[Tick | Direct]) -> None:
    """Read commands, run each in a task, answer and acknowledge."""
    client: Any = redis.asyncio.from_url(url, max_connections=CONNECTIONS)
    send, tasks = how(client), set()
    with contextlib.suppress(ResponseError):
        await client.xgroup_create(COMMANDS, GROUP, "0", mkstream=True)

    async def handle(entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        payload = json.loads(fields[b"payload"])
        if fields[b"work"] == b"burn":
            driver.burn()
        answer = ("request_id", fields[b"request_id"], "payload", json.dumps(payload))
        await send(("XADD", fields[b"reply_to"], "*", *answer), ("XACK", COMMANDS, GROUP, entry_id))

    while True:
        found = await client.xreadgroup(
            GROUP, "worker", {COMMANDS: ">"}, count=AT_ONCE, block=BLOCK_MS
        )
        for _, entries in found:
            for entry_id, fields in entries:
                task = asyncio.create_task(handle(entry_id, fields))
                tasks.add(task)
                task.add_done_callback(tasks.discard)


@contextlib.asynccontextmanager
async def asking(url: str, how: type[Tick | Direct]) -> AsyncIterator[driver.Ask]:
    """Read a reply stream, and keep a future for each request."""
    client: Any = redis.asyncio.from_url(url, max_connections=CONNECTIONS)
    send, inbox = how(client), f"replies:{uuid.uuid4()}"
    waiting: dict[str, asyncio.Future[Any]] = {}

    async def read() -> None:
        last = b"0"
        while True:
            for _, entries in await client.xread({inbox: last}, block=BLOCK_MS):
                for entry_id, fields in entries:
                    last = entry_id
                    future = waiting.pop(fields[b"request_id"].decode(), None)
                    if future and not future.done():
                        future.set_result(json.loads(fields[b"payload"]))

    async def ask(work: str, payload: dict[str, Any]) -> Any:
        request_id = str(uuid.uuid4())
        future = waiting[request_id] = asyncio.get_running_loop().create_future()
        command = ("request_id", request_id, "reply_to", inbox, "work", work)
        await send(("XADD", COMMANDS, "*", *command, "payload", json.dumps(payload)))
        return await future

    reading = asyncio.create_task(read())
    try:
        yield ask
    finally:
        reading.cancel()
        await client.aclose()


if __name__ == "__main__":
    chosen = driver.arguments("--coalesced")
    writer = Tick if chosen.coalesced else Direct
    if chosen.role == "worker":
        asyncio.run(work(chosen.url, writer))
    else:
        asyncio.run(driver.serve_loads(asking(chosen.url, writer)))
