#!/usr/bin/env python3
"""Measure delays, cron and limits by key beside docket and taskiq, each with its defaults but for what its script says.

    PYTHONPATH=src:.:benchmarks .venv/bin/python benchmarks/queueing_peers.py

Delays and limits run one contestant after the other; cron runs all at once, over three minutes.
"""

import asyncio
import contextlib
import os
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import replace

from performance_peers import PEERS, Peer
from redis.asyncio import Redis

from sagastream.testing import EmbeddedServer, child_options
from tests.polling import eventually

NAMES = ("sagastream", "docket", "taskiq")
DELAYED, LEAD_S, WITHIN_S = 1_000, 10.0, 20.0
LIMITED, WORKERS = 4_000, 4
CRON_S = 190.0
_PORT = 7391


@contextlib.contextmanager
def _server(port: int = _PORT) -> Iterator[str]:
    with EmbeddedServer(port=port):
        yield f"redis://127.0.0.1:{port}/0"


def _peers() -> list[Peer]:
    found = {peer.name: peer for peer in PEERS}
    return [replace(found[name], script=f"waiting_{name}") for name in NAMES]


@contextlib.contextmanager
def _workers(peer: Peer, url: str, count: int) -> Iterator[None]:
    processes = [
        subprocess.Popen(
            peer.command("work", url),
            env=os.environ | {"NOTES_URL": url, "WORKER": str(number)},
            **child_options(),
        )
        for number in range(count)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _send(peer: Peer, url: str, role: str, *numbers: float) -> None:
    command = [*peer.command(role, url), *map(str, numbers)]
    subprocess.run(command, env=os.environ | {"NOTES_URL": url}, check=True)


async def _begun(url: str, count: int, within_s: float) -> list[tuple[float, float]]:
    client = Redis.from_url(url, decode_responses=True)

    async def are_all() -> bool:
        return int(await client.llen("begun")) >= count

    await eventually(are_all, within_s=within_s, why=f"{count} have begun")
    lines = [str(line).split() for line in await client.lrange("begun", 0, -1)]
    await client.aclose()
    return [(float(at), float(due)) for at, due in lines]


async def _later(peer: Peer) -> str:
    with _server() as url, _workers(peer, url, 2):
        await asyncio.to_thread(_send, peer, url, "later", DELAYED, LEAD_S, WITHIN_S)
        found = await _begun(url, DELAYED, 120)
    late = sorted(1000 * (at - due) for at, due in found)
    early = sum(each < 0 for each in late)
    return f"{statistics.median(late):.0f} | {late[len(late) * 99 // 100]:.0f} | {early}"


async def _limited(peer: Peer) -> str:
    if peer.name == "taskiq":
        return "-"
    with _server() as url:
        await asyncio.to_thread(_send, peer, url, "limited", LIMITED)
        with _workers(peer, url, WORKERS):
            times = sorted(at for at, _ in await _begun(url, LIMITED, 300))
    return f"{(LIMITED - 1) / (times[-1] - times[0]):,.0f}"


async def _cron(peer: Peer, port: int) -> str:
    with _server(port) as url, _workers(peer, url, 2):
        await asyncio.sleep(CRON_S)  # the minutes themselves are what is measured
        found = await _begun(url, 1, 1)
    late = [1000 * (at - due) for at, due in found]
    return f"{len(found)} | {max(late):.0f}"


async def main() -> None:
    """Print the table."""
    peers = _peers()
    for peer in peers:
        peer.make_environment()
    crons = await asyncio.gather(*(_cron(peer, _PORT + n) for n, peer in enumerate(peers)))
    print(
        "| | late by, p50 ms | p99 ms | too early | limited, a second | cron: firings | latest, ms |"
    )
    print("|---|---|---|---|---|---|---|")
    for peer, cron in zip(peers, crons, strict=True):
        print(
            f"| {peer.name} | {await _later(peer)} | {await _limited(peer)} | {cron} |", flush=True
        )


if __name__ == "__main__":
    asyncio.run(main())
