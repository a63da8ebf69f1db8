"""Traces of complete missions at a real collector, over both protocols, and on the terminal."""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app import config
from app.cli.workers import Workers
from app.config import choose_settings, get_settings
from app.observability.span_files import read_spans
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer
from tests.collector import Collector
from tests.integration.conftest import Ended, environment, run
from tests.plain_client import connect
from tests.polling import eventually_sync
from tests.semconv import ExportedSpan, faults_of_series, faults_of_span, faults_of_trace

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(500)]

# One second until spans are exported, plus the delay of a busy machine.
_HELD_BACK_S = 2.5
_MOMENT_S = 120.0
_STEPS = {"allocate_resources", "plan_route", "perform_exploration", "integrate_maps"}


@dataclass(frozen=True)
class Told:
    """Three missions and everything that the collector received."""

    collector: Collector
    env: dict[str, str]
    trace_file: Path
    completed: Ended
    compensated: Ended
    resumed: Ended
    killed_at: float

    def spans(self, ended: Ended) -> list[ExportedSpan]:
        """The spans of one mission's trace."""
        return [s for s in self.collector.spans() if s.trace_id == ended.json["trace_id"]]


def _start(env: dict[str, str], *options: str) -> str:
    ended = run("app.cli", "start", *options, "-o", "json", env=env)
    assert ended.code == 0, ended.err
    return str(ended.json["saga_id"])


def _end(env: dict[str, str], saga_id: str) -> Ended:
    return run("app.cli", "watch", saga_id, "-o", "json", env=env, timeout=200)


def _kill_while_exploring(workers: Workers, collector: Collector, url: str, saga_id: str) -> float:
    """Kill listener and Celery worker once the collector has the exploration; restart them."""
    with connect(url) as client:
        eventually_sync(
            lambda: any(
                json.loads(fields["payload"]).get("checkpoint")
                for _, fields in client.xrange(f"saga:{saga_id}:replies")
            ),
            within_s=_MOMENT_S,
            why="the exploration reported a checkpoint",
        )
    eventually_sync(
        lambda: any(
            span.name == "send exploration:commands"
            and span.attributes.get("sagastream.saga_id") == saga_id
            for span in collector.spans()
        ),
        within_s=_MOMENT_S,
        why="the collector has the span that sent the exploration",
    )
    for name in ("listener-1", "celery"):
        workers._children[name].kill()
        workers._children[name].wait()
    killed_at = time.time()
    for name in ("listener-1", "celery"):
        workers._spawn(name, workers._arguments[name])
    return killed_at


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def told(
    request: pytest.FixtureRequest,
    server_binary: str | None,
    maps: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Told]:
    """One mission completes, one loses its workers, the last step of one cannot write."""
    place = tmp_path_factory.mktemp("told")
    out, trace_file = place / "out", place / "spans.jsonl"
    kept = dict(config._chosen)
    with (
        Collector(place / "collector.log") as collector,
        EmbeddedServer(binary=server_binary) as server,
    ):
        settings = choose_settings(
            redis_url=server.url,
            map_dir=maps,
            out_dir=out,
            fleet_size=2,
            lease_s=2.0,
            wake_after_s=1.0,
            checkpoint_s=0.5,
            trace_file=trace_file,
            otel_exporter_otlp_endpoint=collector.endpoint(request.param),
            otel_exporter_otlp_protocol=request.param,
        )

        async def ready(workers: Workers) -> None:
            async with get_bus():
                await workers.ready()

        env = settings.environment()
        with Workers(settings) as workers:
            asyncio.run(ready(workers))
            resumed_id = _start(env, "--area", "suite", "--robots", "1")
            killed_at = _kill_while_exploring(workers, collector, server.url, resumed_id)
            resumed = _end(env, resumed_id)
            completed = _end(env, _start(env, "--area", "rooms", "--robots", "2"))
            shutil.rmtree(out)
            out.write_text("not a folder")
            compensated = _end(env, _start(env, "--area", "rooms", "--robots", "2"))
        yield Told(collector, env, trace_file, completed, compensated, resumed, killed_at)
    config._chosen.clear()
    config._chosen.update(kept)
    get_settings.cache_clear()


def test_missions_end_as_expected(told: Told) -> None:
    """Two missions complete, one is compensated."""
    assert [told.completed.code, told.resumed.code, told.compensated.code] == [0, 0, 3]


@pytest.mark.parametrize("name", ["completed", "compensated"])
def test_a_mission_is_one_trace(told: Told, name: str) -> None:
    """One root, no orphan, unique ids; steps, tasks, listener and robots are included."""
    spans = told.spans(getattr(told, name))
    assert faults_of_trace(spans) == []
    assert {span.service for span in spans} == {
        *("orchestrator", "celery-worker", "command-listener", "robots")
    }
    steps = {span.name for span in spans if "sagastream.direction" in span.attributes}
    assert steps >= _STEPS


def test_compensations_are_in_the_trace(told: Told) -> None:
    """The failed step has its error type; each compensation has a span, in reverse order."""
    spans = told.spans(told.compensated)
    steps = [span for span in spans if span.kind == "internal" and span.parent_id]
    steps.sort(key=lambda span: span.start)
    assert [(span.name, span.attributes.get("error.type")) for span in steps] == [
        ("allocate_resources", None),
        ("plan_route", None),
        ("perform_exploration", None),
        ("integrate_maps", "NotADirectoryError"),
        ("undo integrate_maps", None),
        ("undo perform_exploration", None),
        ("undo allocate_resources", None),
    ]


def test_a_killed_worker_leaves_one_trace(told: Told) -> None:
    """Resumed work is below the root; only spans of the last second are missing.

    Spans that were open when their process was killed are not in the file either.
    """
    spans = told.spans(told.resumed)
    ids = {span.span_id for span in spans}
    orphans = [span for span in spans if span.parent_id and span.parent_id not in ids]
    ended = {span.span_id: span.end for span in read_spans(told.trace_file)}
    held_back = [told.killed_at - ended.get(span.parent_id, span.start) for span in orphans]
    assert all(seconds < _HELD_BACK_S for seconds in held_back)
    assert faults_of_trace(spans) == [f"{span.name!r} is an orphan" for span in orphans]
    (root,) = [span for span in spans if not span.parent_id]
    lost, again = sorted(
        (span for span in spans if span.name == "process exploration:commands"),
        key=lambda span: span.start,
    )
    assert (lost.attributes["error.type"], again.is_error) == ("HandlerLost", False)
    assert again.parent_id == root.span_id
    assert again.links == lost.links


def test_every_span_passes_the_conventions(told: Told) -> None:
    """Names, kinds and attributes match version 1.44."""
    spans = told.collector.spans()
    assert len(spans) > 100
    assert [fault for span in spans for fault in faults_of_span(span)] == []


def test_every_metric_passes_the_conventions(told: Told) -> None:
    """Units, buckets and attributes match, no series has an id, and none is missing."""
    series = told.collector.series()
    assert [fault for one in series for fault in faults_of_series(one)] == []
    assert {one.name for one in series} >= {
        "messaging.client.operation.duration",
        "messaging.process.duration",
        "messaging.client.sent.messages",
        "messaging.client.consumed.messages",
        "sagastream.redeliveries",
        "sagastream.saga.step.duration",
        "sagastream.saga.compensations",
        "sagastream.stream.depth",
        "sagastream.stream.pending.age",
        "sagastream.sagas",
        "mission.explored",
    }


def test_the_terminal_shows_failure_and_compensations(told: Told) -> None:
    """The headline names step, error and compensations; each has a row with its process."""
    saga_id = told.compensated.json["saga_id"]
    ended = run("app.cli", "trace", saga_id, env=told.env)
    assert ended.code == 0, ended.err
    head = ended.out.splitlines()
    assert head[0].startswith(f"mission {saga_id} compensated")
    assert head[1].startswith("  failed   integrate_maps: NotADirectoryError")
    assert head[2] == "  undone   integrate_maps, perform_exploration, allocate_resources"
    assert any(line.startswith("integrate_maps") and "FAILED" in line for line in head)
    assert any(line.startswith("<- undo integrate_maps") and "undone" in line for line in head)


def test_the_terminal_shows_a_lost_handler(told: Told) -> None:
    """Both handlers of the exploration have rows, the first one LOST."""
    saga_id = told.resumed.json["saga_id"]
    ended = run("app.cli", "trace", saga_id, "-o", "json", env=told.env)
    rows = ended.json["rows"]
    attempts = [(r["name"], r["attempt"], r["status"]) for r in rows if r["kind"] == "attempt"]
    assert attempts == [("perform_exploration", 1, "LOST"), ("perform_exploration", 2, "done")]
    assert ended.json["status"] == "completed"


def test_mission_run_writes_its_spans(maps: Path, tmp_path: Path) -> None:
    """Without backend or settings, `mission trace` shows the run, without orphans."""
    env = environment(TRACE_DIR=str(tmp_path / "traces"))
    env.pop("REDIS_URL", None)
    options = ("--map", str(maps / "rooms.yaml"), "--robots", "1", "--out", str(tmp_path / "out"))
    ended = run("app.cli", "run", *options, env=env)
    assert ended.code == 0, ended.err
    (last,) = [line for line in ended.out.splitlines() if line.startswith("  trace ")]
    saga_id = last.rpartition("mission trace ")[2]
    shown = run("app.cli", "trace", saga_id, env=env)
    assert shown.out.startswith(f"mission {saga_id} completed")
    (path,) = (tmp_path / "traces").iterdir()
    spans = list(read_spans(path))
    ids = {span.span_id for span in spans}
    assert [span.name for span in spans if not span.parent_id] == ["saga mission"]
    assert [span.name for span in spans if span.parent_id and span.parent_id not in ids] == []
    nobody = run("app.cli", "trace", "nobody", env=env)
    assert nobody.code == 1
    assert "no spans of mission nobody" in nobody.err
