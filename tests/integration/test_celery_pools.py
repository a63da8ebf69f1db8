"""Spans of Celery tasks if the worker stops right after them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import ROOT
from sagastream.testing import EmbeddedServer
from tests.collector import Collector
from tests.integration.celery_spans import DONE
from tests.integration.conftest import environment
from tests.plain_client import connect
from tests.polling import eventually_sync

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(180)]

_SEND = "from tests.integration.celery_spans import spanned\nfor n in range(10): spanned.delay(n)"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(
    "pool",
    [
        ("prefork", "--concurrency", "2"),
        ("prefork", "--concurrency", "2", "--max-tasks-per-child", "1"),
        ("threads", "--concurrency", "2"),
        ("solo",),
    ],
    ids=["prefork", "prefork-one-task", "threads", "solo"],
)
def test_no_span_is_lost_at_a_stop(
    tmp_path: Path, server_binary: str | None, pool: tuple[str, ...], protocol: str
) -> None:
    """After ten tasks and SIGTERM within a second, the collector has all ten inner spans."""
    with (
        Collector(tmp_path / "collector.log") as collector,
        EmbeddedServer(binary=server_binary) as server,
        connect(server.url) as client,
    ):
        env = environment(
            REDIS_URL=server.url,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint(protocol),
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_BSP_SCHEDULE_DELAY="60000",
        )
        subprocess.run([sys.executable, "-c", _SEND], cwd=ROOT, env=env, check=True)
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "--app", "tests.integration.celery_spans"),
                    *("worker", "--without-gossip", "--without-mingle", "--pool", *pool),
                ],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            eventually_sync(
                lambda: client.llen(DONE) >= 10, within_s=90, why="all ten tasks are done"
            )
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
        finally:
            worker.kill()
            worker.wait()
        inner = [span for span in collector.spans() if span.name == "inner"]
    numbers = sorted(span.attributes["mission.number"] for span in inner)
    assert numbers == list(range(10)), (tmp_path / "worker.log").read_text()
