"""`sagastream status`, `listener list` and `doctor`: the whole server at a glance."""

import argparse
from dataclasses import asdict
from typing import Any, Literal

from sagastream.bus import Bus
from sagastream.cli.flow_verbs import flow_of
from sagastream.cli.output import table
from sagastream.errors import SagastreamError
from sagastream.inspection import listeners, streams
from sagastream.memory import NEARLY_FULL, memory_status
from sagastream.saga.administration import find_sagas, saga_names
from sagastream.schedules import find_schedules, overdue
from sagastream.status import oldest_unread_s

_COLUMNS = (
    *("stream", "depth", "waiting", "pending", "oldest_s", "listeners", "dead_letters"),
    *("paused", "schedules", "event_types"),
)
_OLD_S = 300.0

Verdict = Literal["ok", "warning", "problem"]


async def status(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each command stream."""
    live = await listeners(bus, group=options.group)
    rows = []
    for found in await streams(bus, group=options.group):
        row = asdict(found) | {"event_types": list(found.event_types)}
        row["listeners"] = sum(found.stream in each.handles for each in live)
        row |= await flow_of(bus, found.stream)
        row["schedules"] = int(await bus.command("ZCARD", bus.key(f"{found.stream}:schedules")))
        row["oldest_s"] = max(found.oldest_pending_s, await oldest_unread_s(bus, found))
        rows.append(row)
    return rows


async def list_listeners(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each live listener."""
    return [
        {
            "listener": found.listener,
            "pending": found.pending,
            "handles": [
                f"{stream} {kind}" for stream, kinds in found.handles.items() for kind in kinds
            ],
        }
        for found in await listeners(bus, group=options.group)
    ]


def text_of_status(rows: list[dict[str, Any]]) -> str:
    """The table."""
    return table(rows, _COLUMNS)


def text_of_listeners(rows: list[dict[str, Any]]) -> str:
    """The table."""
    return table(rows, ("listener", "pending", "handles"))


def text_of_checks(rows: list[dict[str, Any]]) -> str:
    """A line for each check."""
    lines = []
    for row in rows:
        fix = f"; {row['fix']}" if row["fix"] else ""
        lines.append(f"{row['verdict']:<8} {row['check']}: {row['detail']}{fix}")
    return "\n".join(lines)


async def doctor(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Check the server and what is on it; what is wrong has a fix."""
    checks = [_check("server", "ok", f"{bus.address} answers, and has the functions")]
    for find in (_persistence, _memory, _work, _schedules, _sagas):
        try:
            checks += await find(bus, options)
        except SagastreamError as error:
            name = find.__name__.strip("_")
            checks.append(_check(name, "warning", str(error), "see docs/reference/rights.md"))
    return checks


async def _persistence(bus: Bus, _options: argparse.Namespace) -> list[dict[str, Any]]:
    info = await bus.command("INFO", "persistence")
    is_on = str(info.get("aof_enabled")) == "1"
    if is_on:
        failed = info.get("aof_last_write_status") not in {"ok", b"ok"}
        verdict: Verdict = "problem" if failed else "ok"
        return [_check("persistence", verdict, "an append-only file" + " that fails" * failed)]
    fix = "set appendonly yes, or be sure that requests may be lost when the server restarts"
    return [_check("persistence", "warning", "no append-only file", fix)]


async def _memory(bus: Bus, _options: argparse.Namespace) -> list[dict[str, Any]]:
    found = await memory_status(bus)
    if not found.limit_bytes:
        return [_check("memory", "ok", f"{found.used_bytes / 1e6:.1f} MB, no limit")]
    detail = f"{found.share:.0%} of {found.limit_bytes / 1e6:.1f} MB"
    verdict: Verdict = (
        "problem" if found.is_full else "warning" if found.share > NEARLY_FULL else "ok"
    )
    fix = "" if verdict == "ok" else "see: sagastream memory, sagastream purge"
    return [_check("memory", verdict, detail, fix)]


async def _work(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    checks = []
    for row in await status(bus, options):
        name, waiting = f"stream {row['stream']}", row["depth"] + row["pending"]
        detail = f"{row['listeners']} listeners, {waiting} waiting, oldest {row['oldest_s']:.0f} s"
        if not row["listeners"] and (waiting or row["oldest_s"]):
            checks.append(
                _check(name, "problem", detail, "start a listener: sagastream run MODULE")
            )
        elif row["oldest_s"] > _OLD_S:
            fix = "start more listeners, or see what runs: sagastream request list --status running"
            checks.append(_check(name, "warning", detail, fix))
        else:
            checks.append(_check(name, "ok", detail))
        if row["paused"]:
            fix = f"see: sagastream queue list {row['stream']}, sagastream resume {row['stream']}"
            checks.append(_check(name, "warning", f"paused: {', '.join(row['paused'])}", fix))
        if row["dead_letters"]:
            fix = f"see: sagastream dead list {row['stream']}"
            checks.append(_check(name, "warning", f"{row['dead_letters']} dead letters", fix))
    return checks


async def _schedules(bus: Bus, _options: argparse.Namespace) -> list[dict[str, Any]]:
    found = await find_schedules(bus)
    if not found:
        return []
    late = await overdue(bus, found)
    checks = [
        _check(
            f"schedule {each.name}",
            "problem",
            "it is due, and no listener fires it",
            f"start a listener of {each.schedule.stream if each.schedule else 'its stream'}, "
            f"or: sagastream schedule pause {each.name}",
        )
        for each in late
    ]
    checks += [
        _check(
            f"schedule {each.name}",
            "warning",
            f"it cannot be read: {each.problem}",
            f"use the release that set it, or: sagastream schedule drop {each.name}",
        )
        for each in found
        if each.state == "unreadable"
    ]
    checks += [
        _check(
            f"schedule {each.name}",
            "warning",
            f"its last request has {each.last_outcome}",
            f"see: sagastream request show {each.last_request}",
        )
        for each in found
        if each.last_outcome == "failed"
    ]
    return checks or [_check("schedules", "ok", f"{len(found)}, none is overdue")]


async def _sagas(bus: Bus, _options: argparse.Namespace) -> list[dict[str, Any]]:
    if not await saga_names(bus):
        return []
    stuck = await find_sagas(bus, statuses=frozenset({"stuck", "unreadable"}), limit=1)
    if stuck.journals:
        fix = "see: sagastream saga list --status stuck, sagastream saga resume ID"
        return [_check("sagas", "problem", f"{stuck.journals[0].saga_id} needs an operator", fix)]
    return [_check("sagas", "ok", "none is stuck")]


def _check(check: str, verdict: Verdict, detail: str, fix: str = "") -> dict[str, Any]:
    return {"check": check, "verdict": verdict, "detail": detail, "fix": fix}
