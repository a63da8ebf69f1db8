"""The runs: contestants, their loads and workers, and what else is on the server."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from performance_loads import fill_backlog, fill_sagas
from performance_peers import COALESCED, NAIVE, PEERS, SAGASTREAM, Peer
from performance_server import Valkey

LARGE_BYTES = 64 * 1024 - 256
"""A payload just under the limit, in bytes."""


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of work, and the number of requests in flight."""

    in_flight: int
    work: str = "echo"
    payload_bytes: int = 0

    @property
    def name(self) -> str:
        """Its name in the figures."""
        return f"{'large' if self.payload_bytes else self.work}/{self.in_flight}"


@dataclass(frozen=True, slots=True)
class Run:
    """A contestant on a separate server, under some loads.

    Attributes:
        name: Its name in the figures.
        peer: The contestant.
        loads: The loads, one after the other.
        workers: Number of worker processes.
        traced: Whether spans are exported to a collector.
        fill: Fills the server before the first pass; None to leave it empty.
        fill_count: Number of items to fill it with.
    """

    name: str
    peer: Peer
    loads: tuple[Load, ...]
    workers: int = 1
    traced: bool = False
    fill: Callable[[Valkey, int], Coroutine[Any, Any, None]] | None = None
    fill_count: int = 0


CURVE = (1, 8, 64, 256)
BACKLOGS = (0, 10_000, 1_000_000)
_ECHO = tuple(Load(count) for count in (1, 64))
_CURVE = tuple(Load(count) for count in CURVE)
_LARGE = tuple(Load(count, payload_bytes=LARGE_BYTES) for count in (1, 64))
_PROGRESS = tuple(Load(count, "progress") for count in (1, 64))
_BURN = Load(64, "burn")
_LOADS = {
    SAGASTREAM: (*_CURVE, *_PROGRESS, *_LARGE),
    NAIVE: (*_CURVE, *_LARGE),
    COALESCED: (*_CURVE, *_LARGE),
}

RUNS = (
    *(Run(peer.name, peer, _LOADS.get(peer, _ECHO)) for peer in PEERS),
    *(Run(f"sagastream-workers-{n}", SAGASTREAM, (_BURN,), workers=n) for n in (1, 2, 3, 4)),
    *(Run(f"naive-workers-{n}", NAIVE, (_BURN,), workers=n) for n in (1, 2)),
    Run("sagastream-traced", SAGASTREAM, (*_ECHO, _BURN), traced=True),
    *(
        Run(f"sagastream-backlog-{n}", SAGASTREAM, _ECHO, fill=fill_backlog, fill_count=n)
        for n in BACKLOGS
    ),
    Run("sagastream-open-sagas-10000", SAGASTREAM, _ECHO, fill=fill_sagas, fill_count=10_000),
)
CHECKED = tuple(Run(peer.name, peer, _ECHO) for peer in (SAGASTREAM, NAIVE))
