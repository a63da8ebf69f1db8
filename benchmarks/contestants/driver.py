"""Puts a load on a contestant's requester, as told in JSON lines; the same code for all.

A contestant is a script with two roles: `SCRIPT worker URL` serves until it is killed,
`SCRIPT requester URL` reads one load a line from standard input and answers each with one line of
figures. This module imports nothing but the standard library, as every environment has it.
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
"""What a requester does: (kind of work, JSON object) to the same object, from the worker."""

STARTING_S = 30.0


def arguments(*flags: str) -> argparse.Namespace:
    """Role and server of this process, and a contestant's own flags."""
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
    """Be the role that the arguments name, of a contestant without flags of its own."""
    chosen = arguments()
    if chosen.role == "worker":
        asyncio.run(work(chosen.url))
    else:
        asyncio.run(serve_loads(asking(chosen.url)))


def payload_of(load: dict[str, Any]) -> dict[str, Any]:
    """A small JSON object, or one of about so many bytes."""
    small = {"hello": "world", "number": 7}
    return small | ({"fill": "x" * load["payload_bytes"]} if load.get("payload_bytes") else {})


def loads() -> Iterator[dict[str, Any]]:
    """Every load that is asked for on standard input."""
    for line in sys.stdin:
        yield json.loads(line)


def tell(**figures: Any) -> None:
    """Write one line of figures."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def burn(seconds: float = 0.001) -> None:
    """Use that much of the processor's time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def serve_loads(asking: AbstractAsyncContextManager[Ask]) -> None:
    """Answer loads with what it took, from the first answered request on."""
    try:
        async with asking as ask:
            await _until_answered(ask)
            tell(ready=True)
            lines = loads()
            while (load := await asyncio.to_thread(next, lines, None)) is not None:
                tell(**await _under(load, ask))
    except BaseException:  # noqa: BLE001 - told of, and the end
        # At once: the thread that reads standard input, or a peer's, would keep the process.
        traceback.print_exc()
        os._exit(1)


async def _until_answered(ask: Ask) -> None:
    """Ask until the worker is there: some never see what was sent before they came."""
    wanted = payload_of({})
    give_up = time.monotonic() + STARTING_S
    while True:
        try:
            answer = await asyncio.wait_for(ask("echo", wanted), 3.0)
        except TimeoutError:
            if time.monotonic() > give_up:
                raise
        else:
            if answer != wanted:
                raise ValueError(f"asked {wanted}, answered {answer!r}")
            return


async def _under(load: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """Keep so many requests in flight for so long; each one's microseconds."""
    work, payload, took = load["work"], payload_of(load), []
    gc.collect()
    began = time.perf_counter()
    until = began + load["seconds"]

    async def lane() -> None:
        while (sent := time.perf_counter()) < until:
            answer = await ask(work, payload)
            took.append(time.perf_counter() - sent)
            if len(answer) != len(payload):
                raise ValueError(f"asked {payload}, answered {answer!r}")

    await asyncio.gather(*(lane() for _ in range(load["in_flight"])))
    return {
        "seconds": time.perf_counter() - began,
        "took_us": [round(1e6 * one) for one in took],
    }
