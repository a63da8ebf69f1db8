#!/usr/bin/env python3
"""Measure how fast `sagastream serve` answers on a server with many requests and sagas.

    PYTHONPATH=. .venv/bin/python benchmarks/operator_page.py [--requests 100000] [--sagas 10000]

One request of a thousand fails, and one of ten waits in a stream without a listener. Prints for
each page the slowest of `--times` answers in ms, as rows of a table.
"""

import argparse
import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import httpx

from sagastream import Bus, Command, CommandListener, Progress, multi_stage_reply
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.status import stream_status
from sagastream.testing import EmbeddedServer, running
from sagastream.web.application import make_page

STREAM, IDLE = "shop:commands", "idle:commands"
AT_ONCE = 1000
PATHS = (
    "/",
    "/requests",
    "/requests?status=failed",
    "/requests?id=order-77",
    f"/requests?stream={IDLE}",
    "/request?id=order-1000",
    "/sagas",
    "/sagas?status=compensated",
    "/saga?id=trip-7",
    "/dead",
    "/listeners",
)


@multi_stage_reply(stream=STREAM, event_type="shop:order")
async def order(command: Command, _progress: Progress) -> dict[str, Any]:
    """Pack an order; one of a thousand fails."""
    if not command.payload["number"] % 1000:
        raise ValueError("out of stock")
    return {"packed": command.payload["number"]}


ORDER = Step("order", STREAM, "shop:order", lambda given, _results: given)
TRIP = Saga("trip", (ORDER,))


async def _in_parts(count: int, make: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(make(n) for n in range(first, min(count, first + AT_ONCE))))


async def _fill(bus: Bus, requests: int, sagas: int) -> None:
    async def emit(number: int) -> str:
        return await bus.emit_command(
            STREAM if number % 10 else IDLE if number % 1000 else STREAM,
            event_type="shop:order",
            payload={"number": number},
            request_id=f"order-{number}",
        )

    async def run(number: int) -> None:
        runner = SagaRunner(bus, TRIP)
        await runner.run(await runner.start({"number": number}, saga_id=f"trip-{number}"))

    await _in_parts(requests, emit)
    await _in_parts(sagas, run)
    while True:
        status = await stream_status(bus, STREAM)
        if not status.depth and not status.pending:
            return
        await asyncio.sleep(0.1)


async def _measure(bus: Bus, times: int) -> None:
    transport = httpx.ASGITransport(make_page(bus))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in PATHS:
            took = []
            for _ in range(times):
                begun = time.perf_counter()
                (await client.get(path)).raise_for_status()
                took.append(1000 * (time.perf_counter() - begun))
            print(f"| `{path}` | {max(took):.0f} |", flush=True)


async def _main(options: argparse.Namespace) -> None:
    logging.disable(logging.CRITICAL)
    with EmbeddedServer() as server:
        async with (
            Bus(server.url, namespace="big") as bus,
            Bus(server.url, namespace="big") as own,
            running(CommandListener(own, [order], concurrency=256)),
        ):
            await _fill(bus, options.requests, options.sagas)
            print(f"{await bus.command('DBSIZE')} keys", flush=True)
            await _measure(bus, options.times)


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--sagas", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
