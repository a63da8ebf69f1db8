"""Measure the memory of a waiting request in its requester's process, without its payload."""

import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from performance_server import Valkey

from sagastream import Bus

_FEW, _MANY, _AT_ONCE = 2_000, 10_000, 100
_STREAM = "nobody:commands"


def waiting_bytes() -> dict[str, Any]:
    """Return bytes per waiting request and per bare task, from the difference of many and few."""
    with Valkey() as server:
        done = subprocess.run(
            [sys.executable, __file__, server.url], stdout=subprocess.PIPE, check=True
        )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


async def _measure(url: str) -> dict[str, float]:
    bare = [await _held(asyncio.Event().wait, count) for count in (_FEW, _MANY)]
    async with Bus(url) as bus:
        await bus.ping()

        async def ask() -> None:
            await bus.request_and_reply(_STREAM, "nobody:do", {"number": 7}, timeout=300.0)

        asking = [await _held(ask, count, bus) for count in (_FEW, _MANY)]
    return {
        "request_bytes": (asking[1] - asking[0]) / (_MANY - _FEW),
        "bare_task_bytes": (bare[1] - bare[0]) / (_MANY - _FEW),
    }


async def _held(wait: Any, count: int, bus: Bus | None = None) -> int:
    """Return the resident bytes when `count` tasks wait, started a few at a time."""
    tasks = _waiting.setdefault(wait.__qualname__, [])
    while len(tasks) < count:
        tasks += [asyncio.create_task(wait()) for _ in range(_AT_ONCE)]
        await asyncio.sleep(0)
        while bus and await bus.command("XLEN", _STREAM) < len(tasks):  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.5)
    return _resident_bytes()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


_waiting: dict[str, list[asyncio.Task[None]]] = {}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_measure(sys.argv[1]))) + "\n")
