"""NATS: a command through JetStream, kept in memory, with a plain reply to an inbox."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import driver
import nats
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, StorageType, StreamConfig
from nats.js.errors import BadRequestError

STREAM, SUBJECT = "COMMANDS", "commands"


async def make_stream(client: nats.NATS) -> Any:
    """Return the stream of commands; the first process creates it."""
    stream = client.jetstream()
    config = StreamConfig(STREAM, subjects=[SUBJECT], storage=StorageType.MEMORY)
    with contextlib.suppress(BadRequestError):
        await stream.add_stream(config)
    return stream


async def work(url: str) -> None:
    """Answer and acknowledge each command."""
    client = await nats.connect(url)
    stream = await make_stream(client)

    async def handle(message: Msg) -> None:
        payload = json.loads(message.data)
        assert message.headers is not None
        await client.publish(message.headers["reply-to"], json.dumps(payload).encode())
        await message.ack()

    await stream.subscribe(
        SUBJECT,
        durable="workers",
        cb=handle,
        manual_ack=True,
        config=ConsumerConfig(max_ack_pending=1024),
    )
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def asking(url: str) -> AsyncIterator[driver.Ask]:
    """Open one inbox for all replies, and keep a future for each request."""
    client = await nats.connect(url)
    stream = await make_stream(client)
    inbox = client.new_inbox()
    waiting: dict[str, asyncio.Future[Any]] = {}

    async def receive(message: Msg) -> None:
        future = waiting.pop(message.subject, None)
        if future and not future.done():
            future.set_result(json.loads(message.data))

    await client.subscribe(f"{inbox}.*", cb=receive)

    async def ask(_work: str, payload: dict[str, Any]) -> Any:
        reply_to = f"{inbox}.{uuid.uuid4().hex}"
        future = waiting[reply_to] = asyncio.get_running_loop().create_future()
        # JetStream acknowledges this publish after it has stored the command.
        await stream.publish(SUBJECT, json.dumps(payload).encode(), headers={"reply-to": reply_to})
        return await future

    try:
        yield ask
    finally:
        await client.close()


if __name__ == "__main__":
    driver.main(work, asking)
