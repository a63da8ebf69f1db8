"""What must be so for missions to run, each with how to mend it: for `/readyz` and `mission doctor`.

Everything here is read by a client of its own that waits a second at most, so that a server
that is frozen is an answer too.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.config import Settings
from sagastream._redis.connection import redact

GROUP = "sagastream"
_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so.

    Attributes:
        name: What is looked at.
        ok: Whether it is so.
        detail: What was found.
        mend: What to do about it; '' if it is so.
    """

    name: str
    ok: bool
    detail: str
    mend: str = ""


def mission_streams(settings: Settings) -> tuple[str, ...]:
    """The command streams that listeners must read for missions to run."""
    return (
        settings.resources_stream,
        settings.routing_stream,
        settings.exploration_stream,
        settings.map_stream,
    )


def ready(settings: Settings, streams: Sequence[str]) -> list[Check]:
    """Whether the server answers, and these command streams are read.

    Args:
        settings: Where the server is.
        streams: The command streams that somebody must read.
    """
    return list(_ask(settings, lambda client: _streams(client, settings, streams)))


def doctor(settings: Settings) -> list[Check]:
    """Everything that a mission needs, on this machine and on the server."""
    asked = _ask(settings, lambda client: _server(client, settings))
    return [*asked, *_machine(settings), *_collector(settings)]


def _ask(settings: Settings, more: Callable[[Any], Iterator[Check]]) -> Iterator[Check]:
    where = redact(settings.redis_url)
    client: Any = redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=_PATIENCE_S,
        socket_connect_timeout=_PATIENCE_S,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        decode_responses=True,
        driver_info=None,
    )
    with closing(client):
        try:
            client.ping()
            yield Check("server", True, f"{where} answers")
            yield from more(client)
        except (redis.RedisError, OSError) as error:
            mend = "start it, thaw it, or set REDIS_URL"
            yield Check("server", False, f"{where}: {error or type(error).__name__}", mend)


def _key(settings: Settings, name: str) -> str:
    return f"{{{settings.namespace}}}:{name}" if settings.namespace else name


def _streams(client: Any, settings: Settings, streams: Sequence[str]) -> Iterator[Check]:
    for stream in streams:
        key = _key(settings, stream)
        groups = client.xinfo_groups(key) if client.exists(key) else []
        there = any(group["name"] == GROUP for group in groups)
        yield Check(
            f"group {stream}",
            there,
            f"group {GROUP} {'is there' if there else 'is missing'}",
            "" if there else "start a command listener: it makes its groups",
        )
        heard = client.zcount(_key(settings, f"listeners:{stream}"), time.time() * 1000, "+inf")
        yield Check(
            f"listener {stream}",
            heard > 0,
            f"{heard} handlers announced in the last 10 s",
            "" if heard else "start a command listener: python -m app.command_listener",
        )


def _server(client: Any, settings: Settings) -> Iterator[Check]:
    policy = client.info("memory").get("maxmemory_policy", "noeviction")
    kept = policy == "noeviction"
    mend = "" if kept else "run CONFIG SET maxmemory-policy noeviction there"
    yield Check("eviction", kept, f"maxmemory-policy {policy}", mend)
    yield from _streams(client, settings, mission_streams(settings))
    yield from _workers(client, settings)
    yield from _robots(client, settings)
    stuck = client.zrange(_key(settings, "sagas:mission:stuck"), 0, 4)
    mend = f"mend what `mission show {stuck[0]}` says, then: mission resume ID" if stuck else ""
    yield Check("stuck missions", not stuck, ", ".join(stuck) or "none", mend)
    for stream in mission_streams(settings):
        dead = client.xlen(_key(settings, f"{stream}:dead"))
        mend = f"see: sagastream dead list {stream}" if dead else ""
        yield Check(f"dead letters {stream}", not dead, f"{dead} dead letters", mend)


def _workers(client: Any, settings: Settings) -> Iterator[Check]:
    # Celery reads the broker's address when it is imported, and is heavy.
    from kombu.exceptions import OperationalError  # noqa: PLC0415

    from app.celery_app import celery_app  # noqa: PLC0415

    try:
        found = celery_app.control.ping(timeout=_PATIENCE_S)
    except OperationalError:
        found = []
    waiting = client.llen(_key(settings, celery_app.conf.task_default_queue))
    detail = f"{len(found)} workers answer, {waiting} tasks wait"
    yield Check("celery", bool(found), detail, "" if found else "start one: mission workers")


def _robots(client: Any, settings: Settings) -> Iterator[Check]:
    names = client.hkeys(_key(settings, "fleet"))
    there = sum(client.exists(_key(settings, f"fleet:seen:{name}")) for name in names)
    mend = "" if there else "start some: python -m app.robots.process robot-01"
    yield Check("robots", there > 0, f"{there} of {len(names)} robots are there", mend)


def _machine(settings: Settings) -> Iterator[Check]:
    maps = sorted(path.stem for path in settings.map_dir.glob("*.yaml"))
    mend = "" if maps else "set MAP_DIR to a folder of ROS map_server maps"
    yield Check("maps", bool(maps), f"{settings.map_dir}: {', '.join(maps) or 'none'}", mend)
    place = _nearest(settings.out_dir)
    writable = place.is_dir() and os.access(place, os.W_OK)
    mend = "" if writable else "set OUT_DIR to a folder that can be written"
    detail = "can be written" if writable else "cannot be written"
    yield Check("results", writable, f"{settings.out_dir} {detail}", mend)


def _nearest(path: Path) -> Path:
    """The folder, or the first one above it that is there."""
    return path if path.exists() or path == path.parent else _nearest(path.parent)


def _collector(settings: Settings) -> Iterator[Check]:
    if not (settings.exports_spans or settings.exports_metrics):
        return
    endpoint = (
        settings.otel_exporter_otlp_traces_endpoint
        or settings.otel_exporter_otlp_endpoint
        or settings.otel_exporter_otlp_metrics_endpoint
    )
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    where = (
        parts.hostname or "",
        parts.port or (4317 if settings.traces_protocol == "grpc" else 4318),
    )
    try:
        socket.create_connection(where, _PATIENCE_S).close()
    except OSError as error:
        mend = "start the collector, or unset OTEL_EXPORTER_OTLP_ENDPOINT"
        yield Check("collector", False, f"{where[0]}:{where[1]}: {error}", mend)
    else:
        yield Check("collector", True, f"{where[0]}:{where[1]} takes connections")
