"""Checks of what missions need, each with how to fix it: for `/readyz` and `mission doctor`.

The checks use a separate bus that waits one second for each answer, so that an unresponsive
server gives one failed check, and no long wait.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.config import Settings
from sagastream import Bus, SagastreamError
from sagastream.memory import NEARLY_FULL, memory_status
from sagastream.saga import Saga, SagaRunner
from sagastream.status import StreamStatus, stream_status

_TIMEOUT_S = 1.0
_STUCK_NAMED = 5
_NAMED = 4  # holders of memory


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        ok: Whether it passed.
        detail: What was found.
        mend: How to fix it; '' if there is nothing to fix. A check that passed and has a fix
            is a warning.
    """

    name: str
    ok: bool
    detail: str
    mend: str = ""


async def check_readiness(settings: Settings, streams: Sequence[str]) -> list[Check]:
    """Check that the server answers and that listeners read the given streams.

    Args:
        settings: The server's URL and namespace.
        streams: Command streams that must be read.
    """
    async with _short_bus(settings) as bus:
        return [check async for check in _server_checks(bus, lambda: _ready(bus, streams))]


async def check_all(
    settings: Settings, saga: Saga, robots: Callable[[Bus], Awaitable[Sequence[bool]]]
) -> list[Check]:
    """Check everything that missions need, on the server and on this machine.

    Args:
        settings: The server, the folders and the collector to check.
        saga: The mission saga, to find missions that are stuck.
        robots: Reads for each robot of the fleet whether it is present.
    """

    async def more(bus: Bus) -> AsyncIterator[Check]:
        yield await _eviction(bus)
        yield await _memory(bus)
        statuses = [await _status(bus, stream) for stream in settings.step_streams]
        for status in statuses:
            for check in _stream_checks(status):
                yield check
        yield await _celery(bus)
        yield _robots(await robots(bus))
        yield await _stuck(SagaRunner(bus, saga))
        for status in statuses:
            yield _dead_letters(status)

    async with _short_bus(settings) as bus:
        checks = [check async for check in _server_checks(bus, lambda: more(bus))]
    return [*checks, *_machine(settings), *await asyncio.to_thread(_collector, settings)]


def _short_bus(settings: Settings) -> Bus:
    return Bus(settings.redis_url, namespace=settings.namespace, call_timeout_s=_TIMEOUT_S)


async def _server_checks(
    bus: Bus, more: Callable[[], AsyncIterator[Check]]
) -> AsyncIterator[Check]:
    """Check that the server answers; only then run `more`. Losing the server ends the checks."""
    try:
        await bus.command("PING", timeout=_TIMEOUT_S)
        yield Check("server", True, f"{bus.address} answers")
        async for check in more():
            yield check
    except SagastreamError as error:
        mend = "start it, resume it if it is suspended, or set REDIS_URL"
        detail = str(error) if bus.address in str(error) else f"{bus.address}: {error}"
        yield Check("server", False, detail, mend)


async def _status(bus: Bus, stream: str) -> StreamStatus:
    return await stream_status(bus, stream, timeout=_TIMEOUT_S)


async def _ready(bus: Bus, streams: Sequence[str]) -> AsyncIterator[Check]:
    yield await _memory(bus)
    for stream in streams:
        for check in _stream_checks(await _status(bus, stream)):
            yield check


def _stream_checks(status: StreamStatus) -> Iterator[Check]:
    yield Check(
        f"group {status.stream}",
        status.has_group,
        f"group {status.group} {'exists' if status.has_group else 'is missing'}",
        "" if status.has_group else "start a command listener: it creates its groups",
    )
    heard = len(status.event_types)
    yield Check(
        f"listener {status.stream}",
        heard > 0,
        f"{heard} event types announced in the last 10 s",
        "" if heard else "start a command listener: python -m app.command_listener",
    )


async def _eviction(bus: Bus) -> Check:
    info = await bus.command("INFO", "memory", timeout=_TIMEOUT_S)
    policy = str(info.get("maxmemory_policy", "noeviction"))
    ok = policy == "noeviction"
    mend = "" if ok else "run CONFIG SET maxmemory-policy noeviction there"
    return Check("eviction", ok, f"maxmemory-policy {policy}", mend)


async def _memory(bus: Bus) -> Check:
    """Warn of a server that is nearly full, and name what holds its memory."""
    info = await bus.command("INFO", "memory", timeout=_TIMEOUT_S)
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    detail = f"{used / 1e6:.0f} MB"
    if not limit:
        return Check("memory", True, f"{detail}, no limit (maxmemory 0)")
    detail += f" of {limit / 1e6:.0f} MB ({used / limit:.0%})"
    if used < NEARLY_FULL * limit:
        return Check("memory", True, detail)
    found = await memory_status(bus, timeout=_TIMEOUT_S)
    holders = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in found.holders[:_NAMED])
    mend = "raise maxmemory, keep results for a shorter time (RESULT_S), or: sagastream purge"
    if used >= limit:
        detail += ": it is full, and takes no new commands; what it has still ends"
    return Check("memory", used < limit, f"{detail}, about: {holders}", mend)


async def _celery(bus: Bus) -> Check:
    # Celery is slow to import, and its application reads the broker's address at import.
    from app.celery_app import TASK_QUEUE, count_workers  # noqa: PLC0415

    workers = await asyncio.to_thread(count_workers, _TIMEOUT_S)
    waiting = await bus.command("LLEN", bus.key(TASK_QUEUE), timeout=_TIMEOUT_S)
    detail = f"{workers} workers answer, {waiting} tasks wait"
    return Check("celery", workers > 0, detail, "" if workers else "start one: mission workers")


def _robots(present: Sequence[bool]) -> Check:
    mend = "" if any(present) else "start some: python -m app.robots.process robot-01"
    detail = f"{sum(present)} of {len(present)} robots are present"
    return Check("robots", any(present), detail, mend)


async def _stuck(runner: SagaRunner) -> Check:
    stuck = (await runner.ids("stuck"))[:_STUCK_NAMED]
    mend = f"fix what `mission show {stuck[0]}` reports, then: mission resume ID" if stuck else ""
    return Check("stuck missions", not stuck, ", ".join(stuck) or "none", mend)


def _dead_letters(status: StreamStatus) -> Check:
    dead, stream = status.dead_letters, status.stream
    mend = f"see: sagastream dead list {stream}" if dead else ""
    return Check(f"dead letters {stream}", not dead, f"{dead} dead letters", mend)


def _machine(settings: Settings) -> Iterator[Check]:
    maps = sorted(path.stem for path in settings.map_dir.glob("*.yaml"))
    mend = "" if maps else "set MAP_DIR to a folder of ROS map_server maps"
    yield Check("maps", bool(maps), f"{settings.map_dir}: {', '.join(maps) or 'none'}", mend)
    folder = _nearest_existing(settings.out_dir)
    writable = folder.is_dir() and os.access(folder, os.W_OK)
    mend = "" if writable else "set OUT_DIR to a writable folder"
    detail = "is writable" if writable else "is not writable"
    yield Check("results", writable, f"{settings.out_dir} {detail}", mend)


def _nearest_existing(path: Path) -> Path:
    """Return the folder itself if it exists, else its nearest parent that does."""
    return path if path.exists() or path == path.parent else _nearest_existing(path.parent)


def _collector(settings: Settings) -> list[Check]:
    """Check that the OTLP collector accepts connections, if one is configured."""
    if not (settings.exports_spans or settings.exports_metrics):
        return []
    endpoint = (
        settings.otel_exporter_otlp_traces_endpoint
        or settings.otel_exporter_otlp_endpoint
        or settings.otel_exporter_otlp_metrics_endpoint
    )
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    host = parts.hostname or ""
    try:
        port = parts.port or (4317 if settings.traces_protocol == "grpc" else 4318)
    except ValueError:
        mend = "give OTEL_EXPORTER_OTLP_ENDPOINT a number as its port"
        return [Check("collector", False, f"{host}: its port is not a number", mend)]
    try:
        socket.create_connection((host, port), _TIMEOUT_S).close()
    except OSError as error:
        mend = "start the collector, or unset OTEL_EXPORTER_OTLP_ENDPOINT"
        return [Check("collector", False, f"{host}:{port}: {error}", mend)]
    return [Check("collector", True, f"{host}:{port} accepts connections")]
