"""`mission doctor` against servers with and without what missions need."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sagastream.testing import EmbeddedServer
from tests.collector import free_port
from tests.integration.conftest import environment, run
from tests.plain_client import connect

pytestmark = pytest.mark.blocking


def _doctor(env: dict[str, str]) -> tuple[int, dict[str, Any]]:
    ended = run("app.cli", "doctor", "-o", "json", env=env)
    return ended.code, {check["name"]: check for check in json.loads(ended.out)}


def test_all_checks_pass_with_running_workers(running: dict[str, str]) -> None:
    """All checks pass with running workers."""
    with connect(running["REDIS_URL"]) as client:
        client.delete("sagas:mission:stuck")
    code, checks = _doctor(running)
    assert [check for check in checks.values() if not check["ok"]] == []
    assert code == 0


def test_faults_are_named_with_their_fix(own_server: EmbeddedServer, tmp_path: Path) -> None:
    """Each fault is found: workers, eviction, stuck mission, dead letter, maps, collector."""
    with connect(own_server.url) as client:
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


def test_an_unresponsive_server_is_one_fault(own_server: EmbeddedServer) -> None:
    """Only the server check fails; the checks of this machine still run."""
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        code, checks = _doctor(environment(REDIS_URL=own_server.url))
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert code == 1
    assert [name for name, check in checks.items() if not check["ok"]] == ["server"]
    assert list(checks) == ["server", "maps", "results"]
