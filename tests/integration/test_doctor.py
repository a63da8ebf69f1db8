"""`mission doctor` against servers with and without what missions need."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sagastream.testing import EmbeddedServer
from tests.collector import free_port
from tests.integration.conftest import environment, run

pytestmark = pytest.mark.blocking


@pytest.fixture
def own_server(server_binary: str | None) -> Iterator[EmbeddedServer]:
    """A server that no other test uses."""
    with EmbeddedServer(binary=server_binary) as made:
        yield made


def _doctor(env: dict[str, str]) -> tuple[int, dict[str, Any]]:
    ended = run("app.cli", "doctor", "-o", "json", env=env)
    return ended.code, {check["name"]: check for check in json.loads(ended.out)}


def test_all_is_well_where_workers_run(running: dict[str, str]) -> None:
    """Exit 0; what other missions left behind is no fault of the machine."""
    with redis.Redis.from_url(running["REDIS_URL"]) as client:
        client.delete("sagas:mission:stuck")
    code, checks = _doctor(running)
    assert [check for check in checks.values() if not check["ok"]] == []
    assert code == 0


def test_what_is_missing_is_named_with_how_to_mend_it(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    """No worker, a server that may evict, a stuck mission, a dead letter, no map, no collector."""
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.zadd("sagas:mission:stuck", {"m1": 1})
        client.xadd("map:commands:dead", {"a": "b"})
    env = environment(
        REDIS_URL=own_server.url,
        MAP_DIR=str(tmp_path),
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
    )
    code, checks = _doctor(env)
    assert code == 1
    bad = {name for name, check in checks.items() if not check["ok"]}
    assert bad == {
        *("eviction", "celery", "robots", "stuck missions", "dead letters map:commands", "maps"),
        "collector",
        *(f"{what} {stream}:commands" for what in ("group", "listener") for stream in _STREAMS),
    }
    assert all(checks[name]["mend"] for name in bad)
    assert "mission show m1" in checks["stuck missions"]["mend"]


_STREAMS = ("resources", "routing", "exploration", "map")


def test_a_frozen_server_is_one_fault(own_server: EmbeddedServer) -> None:
    """What cannot be asked is not guessed at; what is on this machine is looked at all the same."""
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        code, checks = _doctor(environment(REDIS_URL=own_server.url))
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert code == 1
    assert [name for name, check in checks.items() if not check["ok"]] == ["server"]
    assert list(checks) == ["server", "maps", "results"]
