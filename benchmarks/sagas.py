#!/usr/bin/env python3
"""Drive many open sagas of four empty steps in one `SagaRunner` process.

    .venv/bin/python benchmarks/sagas.py [--sagas 10000]

Prints one JSON object: the count of completed sagas, sagas per second, and the memory of an open
saga in the runner's process. The handlers run in a separate process.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from sagastream import Bus, CommandListener, Handler
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer

_STREAM = "steps:commands"
_SAGA = Saga(
    "empty",
    tuple(Step(f"s{n}", _STREAM, f"s{n}:do", lambda data, _: data) for n in range(4)),
)


def _listener(url: str) -> None:
    async def nothing(_command: Any, _progress: Any) -> dict[str, Any]:
        return {}

    async def listen() -> None:
        async with Bus(url) as bus:
            handlers = [Handler(_STREAM, step.event_type, nothing) for step in _SAGA.every_step()]
            await CommandListener(bus, handlers, concurrency=256).run(handle_signals=True)

    asyncio.run(listen())


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def _measure(url: str, sagas: int) -> dict[str, Any]:
    async with Bus(url, max_in_flight=2 * sagas) as bus:
        runner = SagaRunner(bus, _SAGA)
        alone = []
        for number in range(50):
            began = time.perf_counter()
            await runner.run(await runner.start({"n": number}))
            alone.append(time.perf_counter() - began)
        before = _resident_bytes()
        began = time.perf_counter()
        ids = await asyncio.gather(*(runner.start({"n": number}) for number in range(sagas)))
        running = [asyncio.create_task(runner.run(saga_id)) for saga_id in ids]
        most = before
        pending: set[asyncio.Task[Any]] = set(running)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=0.2)
            most = max(most, _resident_bytes())
        took_s = time.perf_counter() - began
        outcomes = [task.result().status for task in running]
    return {
        "sagas": sagas,
        "completed": outcomes.count("completed"),
        "seconds": round(took_s, 2),
        "sagas_per_s": round(sagas / took_s),
        "kib_per_open_saga": round((most - before) / sagas / 1024, 1),
        "alone_p50_ms": round(statistics.median(alone) * 1000, 2),
    }


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sagas", type=int, default=10_000)
    asked = parser.parse_args()
    with EmbeddedServer() as server:
        process = multiprocessing.get_context("spawn").Process(
            target=_listener, args=(server.url,), daemon=True
        )
        process.start()
        try:
            print(json.dumps(asyncio.run(_measure(server.url, asked.sagas)), indent=2))
        finally:
            process.kill()


if __name__ == "__main__":
    main()
