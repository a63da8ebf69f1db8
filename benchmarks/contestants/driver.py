"""Drive the requester of a contestant with loads; all contestants share this code.

A contestant is a script with two roles. `SCRIPT worker URL` serves until it is killed. `SCRIPT
requester URL` reads loads as JSON lines from standard input, and writes one line of figures for
each. This module imports the standard library only, because every environment uses it.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Sends a kind of work and a JSON object to the worker, and returns the same object from it."""

STARTING_S = 30.0


def arguments(*flags: str) -> argparse.Namespace:
    """Parse the role and server of this process, and the contestant's flags."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["worker", "requester"])
    parser.add_argument("url")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    return parser.parse_args()


def main(
    work: Callable[[str], Coroutine[Any, Any, None]],
    asking: Callable[[str], AbstractAsyncContextManager[Ask]],
) -> None:
    """Run the role that the arguments name, for a contestant without flags."""
    chosen = arguments()
    if chosen.role == "worker":
        asyncio.run(work(chosen.url))
    else:
        asyncio.run(serve_loads(asking(chosen.url)))


def payload_of(load: dict[str, Any]) -> dict[str, Any]:
    """Return a small JSON object, or one of about `payload_bytes` bytes."""
    small = {"hello": "world", "number": 7}
    return small | ({"fill": "x" * load["payload_bytes"]} if load.get("payload_bytes") else {})


def loads() -> Iterator[dict[str, Any]]:
    """Yield the loads from standard input."""
    for line in sys.stdin:
        yield json.loads(line)


def report(**figures: Any) -> None:
    """Write one line of figures."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def burn(seconds: float = 0.001) -> None:
    """Use processor time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def serve_loads(asking: AbstractAsyncContextManager[Ask]) -> None:
    """Run loads and report their figures, after a first answered request."""
    try:
        async with asking as ask:
            await _until_answered(ask)
            report(ready=True)
            lines = loads()
            while (load := await asyncio.to_thread(next, lines, None)) is not None:
                report(**await _under(load, ask))
    except BaseException:  # noqa: BLE001 - reported, then the process exits
        # The thread that reads standard input, or a peer's thread, would keep the process alive.
        traceback.print_exc()
        os._exit(1)


async def _until_answered(ask: Ask) -> None:
    """Repeat a request until the worker answers: some never see earlier messages."""
    wanted = payload_of({})
    deadline = time.monotonic() + STARTING_S
    while True:
        try:
            async with asyncio.timeout(3.0):
                answer = await ask("echo", wanted)
        except TimeoutError:
            if time.monotonic() > deadline:
                raise
        else:
            if answer != wanted:
                raise ValueError(f"sent {wanted}, got {answer!r}")
            return


async def _under(load: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """Keep a number of requests in flight; return the microseconds of each."""
    work, payload, took = load["work"], payload_of(load), []
    gc.collect()
    began = time.perf_counter()
    until = began + load["seconds"]

    async def lane() -> None:
        while (sent := time.perf_counter()) < until:
            answer = await ask(work, payload)
            took.append(time.perf_counter() - sent)
            if len(answer) != len(payload):
                raise ValueError(f"sent {payload}, got {answer!r}")

    await asyncio.gather(*(lane() for _ in range(load["in_flight"])))
    return {
        "seconds": time.perf_counter() - began,
        "took_us": [round(1e6 * one) for one in took],
    }
