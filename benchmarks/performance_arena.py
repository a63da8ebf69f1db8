"""Run one contestant: its server, worker processes and a requester process.

The kernel reports the processor time that a load costs each process.
"""

import contextlib
import json
import os
import select
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Self

from performance_peers import ROOT, Peer
from performance_server import Nats, Valkey, monitored, start, stop

_TIMEOUT_S = 60.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# Blocking reads and periodic commands: all requests of a process share them.
_SHARED = frozenset({"XREAD", "XREADGROUP", "BLPOP", "BRPOP", "FCALL renew", "FCALL announce"})


class Contest:
    """Runs the processes of a contestant in a context.

    Args:
        peer: The contestant.
        server: A running server.
        workers: Number of worker processes.
        env: Additions to this process's environment.
    """

    def __init__(
        self,
        peer: Peer,
        server: Valkey | Nats,
        *,
        workers: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._peer, self._server, self._count = peer, server, workers
        own = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"} if not peer.pins else {"PYTHONPATH": ""}
        self._env = dict(os.environ) | own | dict(env or {})

    def __enter__(self) -> Self:
        peer, url = self._peer, self._server.url
        self._log = tempfile.TemporaryFile()
        self._workers = [
            start(peer.command("worker", url), env=self._env, stdout=self._log, stderr=self._log)
            for _ in range(self._count)
        ]
        self._requester = start(
            peer.command("requester", url),
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *what: object) -> None:
        for process in (self._requester, *self._workers):
            stop(process)
        for pipe in (self._requester.stdin, self._requester.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._log.close()

    def under(
        self,
        *,
        seconds: float,
        in_flight: int = 1,
        work: str = "echo",
        payload_bytes: int = 0,
    ) -> dict[str, Any]:
        """Measure a load: percentiles, rate, and processor time per request of each process."""
        load = {"work": work, "payload_bytes": payload_bytes, "in_flight": in_flight}
        pids = {
            "requester": [self._requester.pid],
            "worker": [worker.pid for worker in self._workers],
            "server": [self._server.pid],
        }
        before = {who: _cpu_s(own) for who, own in pids.items()}
        assert self._requester.stdin is not None
        self._requester.stdin.write((json.dumps(load | {"seconds": seconds}) + "\n").encode())
        self._requester.stdin.flush()
        measured = self._answer()
        took = sorted(measured["took_us"])
        return {
            "requests": len(took),
            "p50_us": median(took),
            "p99_us": took[min(len(took) - 1, len(took) * 99 // 100)],
            "per_s": len(took) / measured["seconds"],
            "cpu_us": {
                who: 1e6 * (_cpu_s(own) - before[who]) / len(took) for who, own in pids.items()
            },
            **({"quantiles_us": _quantiles(took)} if in_flight == 1 else {}),
        }

    def commands(self, *, in_flight: int = 1) -> dict[str, float]:
        """Count the commands per request that clients send, without those of `_SHARED`."""
        assert isinstance(self._server, Valkey)
        with monitored(self._server) as seen:
            asked = self.under(seconds=0.2, in_flight=in_flight)["requests"]
        return {
            name: count / asked
            for name, count in sorted(Counter(sent.name for sent in seen).items())
            if name not in _SHARED and count / asked >= 0.05
        }

    def _answer(self) -> Any:
        assert self._requester.stdout is not None
        ready, _, _ = select.select([self._requester.stdout], [], [], _TIMEOUT_S)
        if not ready or not (line := self._requester.stdout.readline()):
            self._log.seek(0)
            words = self._log.read().decode(errors="replace")[-3000:]
            raise RuntimeError(f"{self._peer.name} reported no figures: {words}")
        return json.loads(line)


def _quantiles(took: list[int]) -> list[int]:
    """Return the minimum, each percentile and the maximum of sorted values."""
    return [took[min(len(took) - 1, len(took) * n // 100)] for n in range(101)]


def _cpu_s(pids: list[int]) -> float:
    """Return the processor time of processes so far, in seconds."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S
