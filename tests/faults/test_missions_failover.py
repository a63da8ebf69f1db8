"""A mission whose primary is killed, with Sentinels that promote a replica."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters import replicated
from tests.faults.report import Report

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(300)]


@pytest.mark.parametrize("step", ["plan_route", "perform_exploration"])
def test_missions_survive_the_loss_of_their_primary(
    step: str, server_binary: str | None, report: Report, tmp_path: Path
) -> None:
    """Library, Celery and lease threads find the new primary, and the mission completes."""
    with replicated(server_binary) as servers:
        environment = os.environ | {
            "REDIS_URL": servers.url,
            "NAMESPACE": "missions",
            "DURABILITY": "replicated",
            "REPLICATED_WITHIN_S": "20",
            "CALL_TIMEOUT_S": "30",
            "LEASE_S": "4",
            "WAKE_AFTER_S": "4",
            "OUT_DIR": str(tmp_path),
        }
        command = [sys.executable, "-m", "app.cli", "run", "--robots", "2", "--timeout", "200"]
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as mission:
            assert mission.stdout
            lines = []
            for line in mission.stdout:
                lines.append(line)
                if f"{step}: running" in line:
                    servers.primary().kill()
                    break
            rest, _ = mission.communicate(timeout=250)
    text = "".join(lines) + rest
    assert mission.returncode == 0, text[-3000:]
    assert "completed in" in text
    (result,) = tmp_path.glob("*/report.json")
    assert json.loads(result.read_text())["coverage"] > 0.99
    row = report.row("mission: primary killed, two replicas, Sentinel")
    row.tries += 1
