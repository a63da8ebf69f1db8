#!/usr/bin/env python3
"""What a mission costs more for its MCAP file, and for a client of Foxglove that never reads.

    PYTHONPATH=. .venv/bin/python benchmarks/foxglove_client.py --map FLOOR.yaml [--robots 4] [--pairs 5]

Runs the same mission in pairs: with `mission serve --foxglove` and no client, and with one client that
subscribes to all channels and then reads nothing. Prints one JSON object: the medians of both in
real seconds and in processor seconds of the workers and of `mission serve`, their ratios, and the time
that writing `mission.mcap` takes as a share of the mission. Processor seconds tell more than
real ones on a machine that does other work.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from performance_machine import machine
from websockets.asyncio.client import connect

from app.cli.workers import Workers
from app.config import ROOT, choose_settings, get_settings
from app.export.mission_files import write_files
from app.missions.mission import MissionHandle, follow, run_saga
from app.missions.reports import final_report
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer, child_options

_TICKS = os.sysconf("SC_CLK_TCK")
_Pair = tuple[dict[str, Any], dict[str, Any]]
"""The same mission without and with the client."""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _served(port: int, web_port: int) -> Iterator[int]:
    """Run `mission serve --foxglove`; yield its process id."""
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(web_port)]
    process = subprocess.Popen(
        [*command, "--foxglove", str(port)],
        cwd=ROOT,
        env=get_settings().environment(),
        stdout=subprocess.PIPE,
        text=True,
        **child_options(),
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if "http" in line:
                break
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.asynccontextmanager
async def _client_that_never_reads(port: int) -> AsyncIterator[None]:
    """Subscribe to every channel that is advertised, and let what comes pile up."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", port))
    url = f"ws://127.0.0.1:{port}"
    protocol: Any = "foxglove.sdk.v1"
    async with connect(url, sock=narrow, subprotocols=[protocol], max_size=None) as client:

        async def subscribe_to_the_first() -> None:
            async for received in client:
                message = json.loads(received) if isinstance(received, str) else {}
                channels = message.get("channels", []) if message.get("op") == "advertise" else []
                wanted = [{"id": each["id"], "channelId": each["id"]} for each in channels]
                if wanted:
                    await client.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))
                if any(each["topic"] == "/map" for each in channels):
                    client.transport.pause_reading()
                    return

        subscribing = asyncio.create_task(subscribe_to_the_first())
        try:
            yield
        finally:
            subscribing.cancel()
            client.transport.abort()


def _processor_s(pids: list[int]) -> float:
    """The processor seconds of processes and of the children that they have waited for."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / _TICKS


async def _run(
    area: str, robots: int, pids: list[int], serving: int, port: int, *, client: bool
) -> dict[str, Any]:
    """Run one mission; return what it took, and what its file takes."""
    async with contextlib.AsyncExitStack() as stack:
        if client:
            await stack.enter_async_context(_client_that_never_reads(port))
        before, served, began = _processor_s(pids), _processor_s([serving]), time.monotonic()
        handle: MissionHandle = await run_saga(robots, area, seed=1)
        outcome = await follow(handle, lambda _stage: None)
        took_s, used_s = time.monotonic() - began, _processor_s(pids) - before
        serving_s = _processor_s([serving]) - served
    report = final_report(outcome, handle.input)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        await write_files(handle.input, mcap=Path(folder) / "mission.mcap")
    file_s = time.monotonic() - began
    return {
        "status": report["status"],
        "seconds": round(took_s, 3),
        "processor_s": round(used_s, 3),
        "serving_s": round(serving_s, 3),
        "file_share": round(file_s / took_s, 4),
    }


async def _measure(area: str, robots: int, pairs: int) -> list[_Pair]:
    found: list[_Pair] = []
    port = _free_port()
    async with get_bus() as bus:
        await bus.ping()
        with Workers(get_settings()) as workers, _served(port, _free_port()) as serving:
            await workers.ready()
            pids = [*workers.pids.values()]
            await _run(area, robots, pids, serving, port, client=False)  # compiles and imports
            for number in range(pairs):
                # In turns, so that what comes first has no advantage.
                order = (False, True) if number % 2 else (True, False)
                results = {
                    client: await _run(area, robots, pids, serving, port, client=client)
                    for client in order
                }
                found.append((results[False], results[True]))
                sys.stderr.write(f"{found[-1]}\n")
    return found


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as out:
        choose_settings(
            redis_url=server.url,
            map_dir=asked.map.resolve().parent,
            out_dir=Path(out),
            fleet_size=asked.robots,
        )
        pairs = asyncio.run(_measure(asked.map.stem, asked.robots, asked.pairs))
    names = ("seconds", "processor_s", "serving_s")
    print(
        json.dumps(
            {
                "machine": machine(),
                "map": asked.map.stem,
                "robots": asked.robots,
                "pairs": len(pairs),
                "without": {name: median(each[0][name] for each in pairs) for name in names},
                "with": {name: median(each[1][name] for each in pairs) for name in names},
                "ratio": {
                    name: round(median(each[1][name] / each[0][name] for each in pairs), 3)
                    for name in names
                },
                "file_share": median(one["file_share"] for each in pairs for one in each),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
