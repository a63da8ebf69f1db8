"""Measure the cost of telemetry: an emit, an exit and a whole mission, with and without a collector.

    python benchmarks/telemetry.py            emits and exits
    python benchmarks/telemetry.py --runs 5   also missions, alternating: none, refused, silent

`refused` is a port without a listener. `silent` accepts connections and never answers.
"""

import argparse
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.config import ROOT, Settings
from tests.collector import Collector, free_port

_SPANS = """
import json, sys, time
from app.config import get_settings
from app.observability.providers import configure
configure(get_settings(), "benchmark")
from sagastream.tracing import send_span
took = []
for number in range(2000):
    began = time.perf_counter()
    with send_span("redis://x", "x:commands", {"correlation_id": "c"}):
        pass
    took.append(time.perf_counter() - began)
took.sort()
print(json.dumps([sum(took) / len(took), took[-20], time.time()]), flush=True)
"""


@contextmanager
def _silent() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _environment(endpoint: str, protocol: str) -> dict[str, str]:
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    return Settings().environment() | (own if endpoint else {}) | {"LOG_LEVEL": "ERROR"}


def _emit(env: dict[str, str]) -> tuple[float, float, float]:
    """Return the mean and the 99th percentile of an emit in ms, and the time of the exit in s."""
    done = subprocess.run(
        [sys.executable, "-c", _SPANS],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    mean, slow, ended = json.loads(done.stdout)
    return 1000 * mean, 1000 * slow, time.time() - ended


def _mission(env: dict[str, str], area: str) -> tuple[float, float, float]:
    """Return seconds of a mission: by its journal, of its command, of CPU of all its processes."""
    began, before = time.monotonic(), _cpu_s()
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "app.cli", "run", "--area", area, "--robots", "2"),
                *("--out", out, "-o", "json"),
            ],
            cwd=ROOT,
            env=env | {"TRACE_DIR": f"{out}/traces"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    took = time.monotonic() - began
    return json.loads(done.stdout)["duration_s"], took, _cpu_s() - before


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=0, help="missions for each kind of collector")
    parser.add_argument("--area", default="office", help="map to explore")
    options = parser.parse_args()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        collector = stack.enter_context(Collector(place / "collector.log"))
        silent, refused = stack.enter_context(_silent()), f"http://127.0.0.1:{free_port()}"
        print("collector protocol        mean emit  99 in 100     exit")
        for protocol in ("http/protobuf", "grpc"):
            ends = {"none": "", "there": collector.endpoint(protocol), "refused": refused}
            for name, endpoint in (ends | {"silent": silent}).items():
                mean, slow, leaving = _emit(_environment(endpoint, protocol))
                cells = f"{mean:8.3f} ms {slow:7.2f} ms {leaving:6.2f} s"
                print(f"{name:9} {protocol:13} {cells}")
        ends = {"none": "", "refused": refused}
        took = defaultdict(list)
        for _ in range(options.runs):
            for name, endpoint in (ends | {"silent": silent}).items():
                took[name].append(_mission(_environment(endpoint, "grpc"), options.area))
        for name, figures in took.items():
            missions, commands, cpu = zip(*figures, strict=True)
            print(
                f"{name:9} mission {statistics.median(missions):6.2f} s "
                f"({min(missions):.2f} to {max(missions):.2f}), "
                f"command {statistics.median(commands):6.2f} s, "
                f"CPU {statistics.median(cpu):6.2f} s ({min(cpu):.2f} to {max(cpu):.2f})"
            )


if __name__ == "__main__":
    main()
