"""The HTTP API under generated requests, valid and invalid."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.served import Served


@pytest.mark.timeout(1100)
def test_no_request_makes_the_server_fail(
    running: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Schemathesis finds no 5xx, no undescribed response, no crash."""
    examples = "100" if request.config.getoption("--long") else "3"
    with Served(running, WEB_REQUESTS_PER_S="100000") as served:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run"),
                *(f"{served.url}/api/openapi.json", "--phases", "examples,coverage,fuzzing"),
                *("--checks", "not_a_server_error,response_schema_conformance"),
                *(
                    "--max-examples",
                    examples,
                    "--seed",
                    "1",
                    "--request-timeout",
                    "20",
                    "--no-color",
                ),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=1000,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "17 selected" in done.stdout
