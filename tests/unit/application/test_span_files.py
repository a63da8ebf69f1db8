import subprocess
import sys
from pathlib import Path

import pytest

from app.config import ROOT, Settings
from app.observability.span_files import read_spans

pytestmark = pytest.mark.blocking

_PROGRAM = """
import os, sys
from app.config import get_settings
from app.observability import providers
from sagastream._telemetry import spans
from sagastream._telemetry.operations import server_of
providers.start(get_settings(), sys.argv[1])
with spans.root("saga mission", "m"):
    for number in range(200):
        with spans.sending(server_of("redis://a"), "x:commands", {"correlation_id": "c" * 3000}):
            pass
    try:
        with spans.sending(server_of("redis://a"), "x:commands", {}):
            raise LookupError("no such thing")
    except LookupError:
        pass
    os._exit(9)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that two processes wrote concurrently before they exited without cleanup."""
    path = tmp_path_factory.mktemp("spans") / "new" / "spans.jsonl"
    env = Settings().environment() | {"TRACE_FILE": str(path)}
    running = [
        subprocess.Popen([sys.executable, "-c", _PROGRAM, name], cwd=ROOT, env=env)
        for name in ("first", "second")
    ]
    assert [process.wait(60) for process in running] == [9, 9]
    return path


def test_a_killed_process_loses_no_ended_span(written: Path) -> None:
    """Every ended span of both processes is complete; the root had not ended."""
    spans = list(read_spans(written))
    assert len(spans) == 402
    assert {span.service for span in spans} == {"first", "second"}
    assert len({span.trace_id for span in spans}) == 2


def test_a_span_is_read_as_it_was_recorded(written: Path) -> None:
    """Name, kind, attributes and error are read back."""
    failed = [span for span in read_spans(written) if span.error]
    assert len(failed) == 2
    assert failed[0].error == "LookupError: no such thing"
    assert (failed[0].name, failed[0].kind) == ("send x:commands", "producer")
    assert failed[0].attributes["messaging.system"] == "redis"
    assert failed[0].end >= failed[0].start > 1_600_000_000


def test_an_incomplete_line_is_skipped(written: Path, tmp_path: Path) -> None:
    """An incomplete last line is skipped."""
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(written.read_bytes()[:-100])
    assert len(list(read_spans(cut))) == 401


def test_an_invalid_folder_only_disables_the_file(tmp_path: Path) -> None:
    """The process continues and logs one warning."""
    (tmp_path / "file").write_text("")
    env = Settings().environment() | {"TRACE_FILE": str(tmp_path / "file" / "spans.jsonl")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "x"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9
    assert done.stderr.count("cannot write spans to") == 1
