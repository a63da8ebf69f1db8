"""`mission dev` as a program: other commands use it, and find its missions afterwards."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.config import ROOT
from sagastream.testing import child_options
from tests.collector import free_port
from tests.integration.conftest import environment, run
from tests.polling import eventually_sync

pytestmark = pytest.mark.timeout(120)


def test_missions_are_kept_by_one_command(maps: Path, tmp_path: Path) -> None:
    """A mission runs on it, is on its page, and is listed, shown and served after its end."""
    port = free_port()
    env = {name: value for name, value in environment().items() if name != "REDIS_URL"} | {
        "MAP_DIR": str(maps),
        "OUT_DIR": str(tmp_path / "out"),
        "DATA_DIR": str(tmp_path / "data"),
        "TRACE_DIR": str(tmp_path / "traces"),
        "FLEET_SIZE": "2",
        "WEB_PORT": str(port),
    }
    log = tmp_path / "dev.log"
    with log.open("wb") as written:
        dev = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "dev"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stderr=written,
            **child_options(),
        )
    try:
        eventually_sync(
            lambda: dev.poll() is not None or "ready:" in log.read_text(),
            within_s=60,
            why="it is ready, or has ended",
        )
        ended = run("app.cli", "run", "--area", "rooms", "--page", "-o", "json", env=env)
        assert ended.code == 0, ended.err
        saga_id = ended.json["saga_id"]
        address = f"http://127.0.0.1:{port}/missions/{saga_id}"
        assert address in ended.err.splitlines()
        page = httpx.get(address)
        assert "completed" in page.text
        assert saga_id in run("app.cli", "list", env=env).out
    finally:
        dev.send_signal(signal.SIGINT)
        dev.wait(20)
    told = log.read_text()
    assert dev.returncode == 130, told
    for part in ("server", "listener-1", "robots-1", "page", "dev"):
        assert f"\n{part}" in f"\n{told}", told
    assert "Traceback" not in told
    listed = run("app.cli", "list", "-o", "json", env=env)
    assert saga_id in listed.out, listed.err
    shown = run("app.cli", "show", saga_id[:8], env=env)
    assert shown.code == 0, shown.err
    assert saga_id in shown.out


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """Before anything is started, with the option that helps."""
    env = {name: value for name, value in environment().items() if name != "REDIS_URL"} | {
        "DATA_DIR": str(tmp_path)
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("app.cli", "dev", "--port", str(port), env=env)
    assert ended.code == 1
    assert ended.err.splitlines()[-1].endswith("give another: --port")
    assert list(tmp_path.iterdir()) == []
