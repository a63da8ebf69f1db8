"""Write the figures as tables, and compare them with goals."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exploration import table
from performance_matrix import BACKLOGS, CURVE
from performance_peers import PEERS

Measurements = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit for one figure.

    Attributes:
        what: Name of the figure.
        found: The measured value; None if it was not measured.
        bound: The limit.
        least: Whether the limit is a minimum, not a maximum.
    """

    what: str
    found: float | None
    bound: float
    least: bool = False

    def cells(self) -> list[str]:
        """Return a row of the table."""
        wanted = f"{'>=' if self.least else '<='} {self.bound:g}"
        if self.found is None:
            return [self.what, wanted, "not measured", ""]
        met = self.found >= self.bound if self.least else self.found <= self.bound
        return [self.what, wanted, f"{self.found:.2f}", "yes" if met else "**no**"]


def write_table(path: Path, measured: Measurements) -> None:
    """Write the page of tables."""
    parts = [
        "# Performance figures",
        "",
        "`scripts/benchmark.sh` generates this page. [README.md](README.md) explains the measurements.",
        "",
        *_machine(measured),
        "## Goals",
        "",
        *table(["ratio or figure", "goal", "found", "met"], (g.cells() for g in goals(measured))),
        "## Comparison with alternatives",
        "",
        "Echo of a small JSON object. One requester process, one worker process.",
        "",
        *_comparison(measured),
        "## In flight",
        "",
        *_curve(measured),
        "## Other workloads",
        "",
        *_others(measured),
        *_sagas_and_memory(measured),
        "## Processor time and commands",
        "",
        "Processor time per request of each process, in microseconds; commands per request that clients",
        "send, without blocking reads, with 1 and 64 in flight.",
        "",
        *_costs(measured),
    ]
    path.write_text("\n".join(parts).rstrip() + "\n")


def goals(measured: Measurements) -> Iterator[Goal]:
    """Yield the goals, as ratios of medians of one run."""
    value = _Values(measured)
    p50 = value("sagastream/echo/1", "p50_us")
    rate = value("sagastream/echo/64", "per_s")
    for name, bound in (("naive", 1.2), ("faststream", 0.4)):
        yield Goal(f"p50 over {name}", _over(p50, value(f"{name}/echo/1", "p50_us")), bound)
    least = {"naive": 1.0, "faststream": 7.5, "taskiq": 5, "docket": 12, "celery": 13}
    for name, bound in (least | {"jetstream": 0.55}).items():
        found = _over(rate, value(f"{name}/echo/64", "per_s"))
        yield Goal(f"requests/s at 64 in flight over {name}", found, bound, least=True)
    large = [value(f"{name}/large/64", "per_s") for name in ("sagastream", "naive")]
    yield Goal("requests/s of 64 KiB at 64 in flight over naive", _over(*large), 0.9, least=True)
    server = [value.of_server(f"{name}/echo/64") for name in ("sagastream", "naive")]
    yield Goal("server's time at 64 in flight over naive", _over(*server), 2.2)
    sent = measured["commands"].get("sagastream", {}).get("1")
    yield Goal("server commands per request", sum(sent.values()) if sent else None, 3)
    empty = value("sagastream-backlog-0/echo/1", "p50_us")
    for what in ("backlog-1000000", "open-sagas-10000"):
        found = _over(value(f"sagastream-{what}/echo/1", "p50_us"), empty)
        yield Goal(f"p50 with {what} over empty", found, 1.2)
    held = value("memory", "request_bytes")
    yield Goal("KiB of memory per waiting request", held and held / 1024, 4)
    one = value("sagastream-workers-1/burn/64", "per_s")
    two = _over(value("sagastream-workers-2/burn/64", "per_s"), one)
    yield Goal("requests/s of two listeners over one, 1 ms handlers", two, 1.6, least=True)
    traced = _over(value("sagastream-traced/burn/64", "per_s"), one)
    yield Goal("requests/s traced over untraced, 1 ms handlers", traced, 0.8, least=True)
    for driver, name, bound in (("Celery", "celery", 20), ("`SagaRunner`", "runner", 6)):
        took_ms = value("four-steps", f"{name}_p50_ms")
        found = _over(took_ms and 1000 * took_ms, p50)
        yield Goal(f"four empty steps, {driver}, over the p50 of a request", found, bound)


class _Values:
    """Figures by name; None for a missing one."""

    def __init__(self, measured: Measurements) -> None:
        self._figures = measured["figures"]

    def __call__(self, name: str, figure: str) -> float | None:
        found = self._figures.get(name, {}).get(figure)
        return None if found is None else float(found)

    def of_server(self, name: str) -> float | None:
        """The server's processor time per request, in microseconds."""
        times = self._figures.get(name, {}).get("cpu_us")
        return float(times["server"]) if times else None


def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _machine(measured: Measurements) -> list[str]:
    about = measured["machine"]
    return [
        f"{about['cpu']}, {about['cores']} cores, {about['kernel']}, Python {about['python']},",
        f"{about['server']} without persistence, redis-py {about['redis-py']}.",
        f"Medians of {measured['passes']} interleaved passes, {measured['seconds']:g} s per load.",
        "",
        *(line for name, why in measured["missing"].items() for line in (f"{name}: {why}.", "")),
    ]


def _comparison(measured: Measurements) -> list[str]:
    value = _Values(measured)
    ours = value("sagastream/echo/1", "p50_us"), value("sagastream/echo/64", "per_s")

    def lines() -> Iterable[Sequence[str]]:
        for peer in PEERS:
            p50, p99 = (value(f"{peer.name}/echo/1", f) for f in ("p50_us", "p99_us"))
            rates = [value(f"{peer.name}/echo/{n}", "per_s") for n in (1, 64)]
            times = _ratio(_over(ours[0], p50)), _ratio(_over(ours[1], rates[1]))
            yield (peer.name, *map(_number, (p50, p99, *rates)), *times)

    head = ["", "p50 us", "p99 us", "requests/s, 1 in flight", "64 in flight"]
    return table([*head, "p50 of sagastream / its", "requests/s of sagastream / its, 64"], lines())


def _curve(measured: Measurements) -> list[str]:
    value = _Values(measured)
    lines = [
        [peer.name, *(_number(value(f"{peer.name}/echo/{n}", "per_s")) for n in CURVE)]
        for peer in PEERS[:3]
    ]
    pictures = ["![Latency](latency.png)", "", "![In flight](in-flight.png)", ""]
    return [*table(["requests/s", *(f"{n} in flight" for n in CURVE)], lines), *pictures]


def _others(measured: Measurements) -> list[str]:
    value = _Values(measured)
    rows = [
        (f"{what}, {peer}", f"{peer}/{work}")
        for what, work in (("ten of progress", "progress"), ("64 KiB payload", "large"))
        for peer in ("sagastream", "naive", "naive-coalesced")
    ]
    rows += [
        (f"{n:,} commands in another stream", f"sagastream-backlog-{n}/echo") for n in BACKLOGS
    ]
    rows += [
        ("10,000 open sagas", "sagastream-open-sagas-10000/echo"),
        ("traced", "sagastream-traced/echo"),
        ("traced, 1 ms handler", "sagastream-traced/burn"),
    ]
    rows += [
        (f"1 ms handler, {n} worker{'s' * (n > 1)}, {peer}", f"{peer}-workers-{n}/burn")
        for peer, most in (("sagastream", 4), ("naive", 2))
        for n in range(1, most + 1)
    ]

    def lines() -> Iterable[Sequence[str]]:
        for what, name in rows:
            p50, p99 = (value(f"{name}/1", figure) for figure in ("p50_us", "p99_us"))
            rate = value(f"{name}/64", "per_s")
            if rate is not None:
                yield what, _number(p50), _number(p99), _number(rate)

    head = ["", "p50 us, 1 in flight", "p99 us", "requests/s, 64 in flight"]
    return [*table(head, lines()), "![Backlog](backlog.png)", ""]


def _sagas_and_memory(measured: Measurements) -> list[str]:
    value = _Values(measured)
    lines = [
        ["four empty steps, `SagaRunner`", f"{_ratio(value('four-steps', 'runner_p50_ms'))} ms"],
        ["four empty steps, Celery", f"{_ratio(value('four-steps', 'celery_p50_ms'))} ms"],
        ["a waiting request", f"{_number(value('memory', 'request_bytes'))} bytes"],
        ["a bare waiting task", f"{_number(value('memory', 'bare_task_bytes'))} bytes"],
    ]
    return table(["median saga, memory", ""], lines)


def _costs(measured: Measurements) -> list[str]:
    lines = []
    for peer in PEERS:
        found = measured["figures"].get(f"{peer.name}/echo/64")
        if found:
            cpu = [_number(found["cpu_us"][who]) for who in ("requester", "worker", "server")]
            sent = measured["commands"].get(peer.name, {})
            counts = [f"{sum(sent[n].values()):.1f}" if n in sent else "-" for n in ("1", "64")]
            lines.append([peer.name, *cpu, *counts])
    head = ["64 in flight", "requester us", "worker us", "server us", "commands, 1", "64"]
    return table(head, lines)
