"""Whole missions as a real collector gets them, over both protocols, and as the terminal shows them."""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from app import config
from app.cli.workers import Workers
from app.config import ROOT, choose_settings, get_settings
from app.observability.span_files import read_spans
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer
from tests.collector import Collector
from tests.integration.conftest import Ended, environment, run
from tests.polling import comes_true
from tests.semconv import SeenSpan, faults_of_series, faults_of_span, faults_of_trace

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(500)]

# A second until spans leave, and what a busy machine takes to send them.
_HELD_BACK_S = 2.5
_MOMENT_S = 120.0
_STEPS = {"allocate_resources", "plan_route", "perform_exploration", "integrate_maps"}


@dataclass(frozen=True)
class Told:
    """Three missions, and all that the collector has of them."""

    collector: Collector
    env: dict[str, str]
    trace_file: Path
    completed: Ended
    compensated: Ended
    resumed: Ended
    killed_at: float

    def spans(self, ended: Ended) -> list[SeenSpan]:
        """The spans of one mission's trace."""
        return [s for s in self.collector.spans() if s.trace_id == ended.json["trace_id"]]


def _start(env: dict[str, str], *options: str) -> str:
    ended = run("app.cli", "start", *options, "-o", "json", env=env)
    assert ended.code == 0, ended.err
    return str(ended.json["saga_id"])


def _end(env: dict[str, str], saga_id: str) -> Ended:
    return run("app.cli", "watch", saga_id, "-o", "json", env=env, timeout=200)


def _kill_while_exploring(workers: Workers, collector: Collector, url: str, saga_id: str) -> float:
    """Kill listener and Celery worker when the collector knows of the exploration; start them anew."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        assert comes_true(
            lambda: any(
                json.loads(fields["payload"]).get("checkpoint")
                for _, fields in client.xrange(f"saga:{saga_id}:replies")
            ),
            within_s=_MOMENT_S,
        )
    assert comes_true(
        lambda: any(
            span.name == "send exploration:commands"
            and span.attributes.get("sagastream.saga_id") == saga_id
            for span in collector.spans()
        ),
        within_s=_MOMENT_S,
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
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Told]:
    """A success, a mission whose workers were killed, and one whose last step cannot write."""
    place = tmp_path_factory.mktemp("told")
    out, trace_file = place / "out", place / "spans.jsonl"
    kept = dict(config._chosen)
    with (
        Collector(place / "collector.log") as collector,
        EmbeddedServer(binary=server_binary) as server,
    ):
        settings = choose_settings(
            redis_url=server.url,
            map_dir=ROOT / "maps",
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
            resumed_id = _start(env, "--area", "office", "--robots", "1")
            killed_at = _kill_while_exploring(workers, collector, server.url, resumed_id)
            resumed = _end(env, resumed_id)
            completed = _end(env, _start(env, "--area", "office", "--robots", "2"))
            shutil.rmtree(out)
            out.write_text("not a folder")
            compensated = _end(env, _start(env, "--area", "office", "--robots", "2"))
        yield Told(collector, env, trace_file, completed, compensated, resumed, killed_at)
    config._chosen.clear()
    config._chosen.update(kept)
    get_settings.cache_clear()


def test_missions_end_as_they_should(told: Told) -> None:
    """Completed twice, compensated once: the traces below are of these."""
    assert [told.completed.code, told.resumed.code, told.compensated.code] == [0, 0, 3]


@pytest.mark.parametrize("name", ["completed", "compensated"])
def test_a_mission_is_one_trace(told: Told, name: str) -> None:
    """One root, no orphan, no id twice; steps, tasks, listener and robots are all in it."""
    spans = told.spans(getattr(told, name))
    assert faults_of_trace(spans) == []
    assert {span.service for span in spans} == {
        *("orchestrator", "celery-worker", "command-listener", "robots")
    }
    steps = {span.name for span in spans if "sagastream.direction" in span.attributes}
    assert steps >= _STEPS


def test_undoing_is_in_the_trace(told: Told) -> None:
    """The failed step is an error with its type; each compensation has its span, in reverse."""
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
    """What was resumed hangs under the root; only spans of its last second are missing.

    A span that was open when its process was killed is in no file, either.
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
    """Names, kinds and attributes are those of version 1.44."""
    spans = told.collector.spans()
    assert len(spans) > 100
    assert [fault for span in spans for fault in faults_of_span(span)] == []


def test_every_metric_passes_the_conventions(told: Told) -> None:
    """Units, buckets and attributes are theirs, no series has an id, and all are there."""
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


def test_the_terminal_tells_what_failed_and_what_was_undone(told: Told) -> None:
    """The head names step, error and undoing; each has its line, and who ran it."""
    saga_id = told.compensated.json["saga_id"]
    ended = run("app.cli", "trace", saga_id, env=told.env)
    assert ended.code == 0, ended.err
    head = ended.out.splitlines()
    assert head[0].startswith(f"mission {saga_id} compensated")
    assert head[1].startswith("  failed   integrate_maps: NotADirectoryError")
    assert head[2] == "  undone   integrate_maps, perform_exploration, allocate_resources"
    assert any(line.startswith("integrate_maps") and "FAILED" in line for line in head)
    assert any(line.startswith("<- undo integrate_maps") and "undone" in line for line in head)


def test_the_terminal_tells_of_a_lost_handler(told: Told) -> None:
    """Both handlers of the exploration stand under it, the first as LOST."""
    saga_id = told.resumed.json["saga_id"]
    ended = run("app.cli", "trace", saga_id, "-o", "json", env=told.env)
    rows = ended.json["rows"]
    attempts = [(r["name"], r["attempt"], r["status"]) for r in rows if r["kind"] == "attempt"]
    assert attempts == [("perform_exploration", 1, "LOST"), ("perform_exploration", 2, "done")]
    assert ended.json["status"] == "completed"


def test_a_run_of_its_own_keeps_its_spans(maps: Path, tmp_path: Path) -> None:
    """Without any backend or variable: what the run ends with shows its waterfall, with no orphan."""
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
