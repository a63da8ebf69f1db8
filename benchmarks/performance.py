#!/usr/bin/env python3
"""Measure requests with sagastream and its alternatives, and what slows them down.

    scripts/benchmark.sh                        measure everything, write docs/performance/
    scripts/benchmark.sh --check                compare a few ratios with the committed figures

Every pass runs each contestant once, in an order that rotates; figures are medians over passes,
ratios are ratios of medians. Other options shorten a run, for work on the benchmark itself.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Self

from performance_arena import Contest
from performance_check import differences
from performance_machine import machine
from performance_matrix import CHECKED, RUNS, Run
from performance_memory import waiting_bytes
from performance_peers import PEERS, ROOT
from performance_plots import draw_plots
from performance_report import write_table
from performance_sagas import saga_ms
from performance_server import Nats, NoServer, Valkey, server_of

from tests.collector import Collector

_OUT = ROOT / "docs" / "performance"
_FIGURES = _OUT / "figures.json"


class Passes:
    """Runs contestants repeatedly, and keeps each figure of each pass.

    Args:
        seconds: Duration of each load, in seconds.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept = contextlib.ExitStack()
        self._filled: dict[str, Valkey] = {}
        self._found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.missing: dict[str, str] = {}
        self.commands: dict[str, dict[str, dict[str, float]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *what: object) -> None:
        self._kept.close()

    def once(self, runs: Sequence[Run], turn: int) -> None:
        """Run each contestant once; each turn begins with another one."""
        first = turn * max(1, len(runs) // 3) % max(1, len(runs))
        for run in (*runs[first:], *runs[:first]):
            try:
                self._run(run)
            except NoServer as error:
                self.missing[run.name] = str(error)
                _log(f"{run.name}: {error}")
                continue
            for load in run.loads:
                measured = self._found[f"{run.name}/{load.name}"][-1]
                _log(
                    f"{run.name} {load.name}: {measured['p50_us']:.0f} us, {measured['per_s']:.0f}/s"
                )

    def note(self, name: str, figures: dict[str, Any]) -> None:
        """Keep figures that were measured elsewhere."""
        self._found[name].append(figures)
        _log(f"{name}: {figures}")

    def figures(self) -> dict[str, Any]:
        """Return the median of each figure, and its value in each pass."""
        return {name: _medians(passes) for name, passes in self._found.items()}

    def _run(self, run: Run) -> None:
        with contextlib.ExitStack() as stack:
            opened: Any = server_of(run.peer)
            server: Valkey | Nats = self._server(run) or stack.enter_context(opened)
            env = _traced(stack) if run.traced else {}
            contest = stack.enter_context(Contest(run.peer, server, workers=run.workers, env=env))
            for load in run.loads:
                asked = dataclasses.asdict(load)
                contest.under(seconds=self._seconds / 4, **asked)  # warm-up
                measured = contest.under(seconds=self._seconds, **asked)
                self._found[f"{run.name}/{load.name}"].append(measured)
            alone = run.peer.name == run.name
            if alone and run.name not in self.commands and isinstance(server, Valkey):
                self.commands[run.name] = {
                    str(count): contest.commands(in_flight=count) for count in (1, 64)
                }

    def _server(self, run: Run) -> Valkey | None:
        """Return the server that is filled before the first pass; None if the run needs none."""
        if run.fill is None:
            return None
        if run.name not in self._filled:
            server = self._filled[run.name] = self._kept.enter_context(Valkey())
            asyncio.run(run.fill(server, run.fill_count))
        return self._filled[run.name]


def _traced(stack: contextlib.ExitStack) -> dict[str, str]:
    """Start a collector that keeps nothing; return the environment that exports spans to it."""
    place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    collector = stack.enter_context(Collector(place / "collector.log", detailed=False))
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint("http/protobuf"),
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "none",
    }


def _medians(passes: list[dict[str, Any]]) -> dict[str, Any]:
    middle: dict[str, Any] = {}
    for name, value in passes[0].items():
        values = [one[name] for one in passes]
        if isinstance(value, dict):
            middle[name] = {key: _round(median(v[key] for v in values)) for key in value}
        elif isinstance(value, list):
            middle[name] = [_round(median(column)) for column in zip(*values, strict=True)]
        else:
            middle[name] = _round(median(values))
            middle.setdefault("passes", {})[name] = [_round(v) for v in values]
    return middle


def _round(value: float) -> float:
    return round(value) if abs(value) >= 100 else round(value, 2)


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of each load")
    parser.add_argument(
        "--only", default="", help="run only runs whose names contain this; write nothing"
    )
    parser.add_argument("--check", action="store_true", help="compare with the committed figures")
    parser.add_argument("--out", type=Path, default=_OUT)
    asked = parser.parse_args()
    runs = CHECKED if asked.check else [run for run in RUNS if asked.only in run.name]
    for peer in PEERS:
        if any(run.peer is peer for run in runs):
            peer.make_environment()
    with Passes(asked.seconds) as passes:
        for turn in range(asked.passes):
            passes.once(runs, turn)
            if not asked.check and asked.only in "four-steps":
                passes.note("four-steps", saga_ms(asked.seconds))
            if not asked.check and asked.only in "memory":
                passes.note("memory", waiting_bytes())
        measured = {
            "machine": machine(),
            "passes": asked.passes,
            "seconds": asked.seconds,
            "missing": passes.missing,
            "commands": passes.commands,
            "figures": passes.figures(),
        }
    if asked.check:
        found = differences(measured, json.loads(_FIGURES.read_text()))
        sys.stdout.writelines(f"{line}\n" for line in found or ["as committed"])
        return 1 if found else 0
    if not asked.only:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "figures.json").write_text(json.dumps(measured, indent=1) + "\n")
        write_table(asked.out / "table.md", measured)
        draw_plots(asked.out, measured["figures"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
