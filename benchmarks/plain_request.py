"""Compare the time of a plain request with that of another checkout of this project.

A process for each checkout has a server, a listener and a requester. They take turns of a few
hundred requests, one at a time, so that both meet the same noise of the machine. It prints, for the
median round trip, the server's processor time, and that of requester and listener, the median over
the rounds of this checkout's figure divided by the other's.

Usage: git worktree add OTHER REVISION; .venv/bin/python benchmarks/plain_request.py OTHER
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sagastream import Bus, Command, CommandListener, Progress, multi_stage_reply
from sagastream.testing import EmbeddedServer

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("median round trip", "server's time", "requester's and listener's time")


@multi_stage_reply(stream="work:commands", event_type="work:do")
async def work(command: Command, progress: Progress) -> dict[str, Any]:  # noqa: ARG001 - older checkouts want both
    """Answer with nothing."""
    return {}


async def answer_turns(requests: int) -> None:
    """Run a turn of requests for each line on standard input, and print its figures in us."""

    async def server_seconds(bus: Bus) -> float:
        info = await bus.command("INFO", "cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    async def turn(bus: Bus) -> list[float]:
        server, clients, times = await server_seconds(bus), time.process_time(), []
        for _ in range(requests):
            began = time.perf_counter()
            await bus.request_and_reply("work:commands", "work:do", {})
            times.append(time.perf_counter() - began)
        clients = time.process_time() - clients
        server = await server_seconds(bus) - server
        return [1e6 * statistics.median(times), 1e6 * server / requests, 1e6 * clients / requests]

    with EmbeddedServer() as server:
        async with Bus(server.url) as bus, Bus(server.url) as other, CommandListener(other, [work]):
            await turn(bus)
            while await asyncio.to_thread(sys.stdin.readline):
                print(json.dumps(await turn(bus)), flush=True)


def start(checkout: Path, requests: int) -> "subprocess.Popen[str]":
    """Start the process that measures a checkout."""
    return subprocess.Popen(
        [sys.executable, __file__, str(checkout), "--turns", "--requests", str(requests)],
        env=os.environ | {"PYTHONPATH": str(checkout / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def measure(process: "subprocess.Popen[str]") -> list[float]:
    """Let a process take its turn; returns its figures."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return [float(figure) for figure in json.loads(process.stdout.readline())]


def compare(other: Path, rounds: int, requests: int) -> None:
    """Let both checkouts take turns, and print the ratios."""
    processes = [start(ROOT, requests), start(other, requests)]
    results: list[list[list[float]]] = []
    try:
        for number in range(rounds):
            order = (0, 1) if number % 2 else (1, 0)
            turns = {index: measure(processes[index]) for index in order}
            results.append([turns[0], turns[1]])
    finally:
        for process in processes:
            process.communicate()
    for index, name in enumerate(FIGURES):
        ours, theirs = ([turns[side][index] for turns in results] for side in (0, 1))
        ratios = sorted(mine / yours for mine, yours in zip(ours, theirs, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        print(
            f"{name}: {statistics.median(ours):.0f} us, of the other {statistics.median(theirs):.0f} us;"
            f" ratio {statistics.median(ratios):.3f} (half of the rounds {low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=200, help="turns of each (200)")
    parser.add_argument("--requests", type=int, default=200, help="requests of a turn (200)")
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.turns:
        asyncio.run(answer_turns(given.requests))
    else:
        compare(given.other, given.rounds, given.requests)
