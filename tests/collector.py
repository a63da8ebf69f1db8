"""A real OTLP collector; the received spans and metrics are read from its log."""

import re
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import rotel

from tests.polling import eventually_sync
from tests.semconv import ExportedSeries, ExportedSpan

_BINARY = Path(rotel.__file__).parent / "rotel-agent"
_ATTRIBUTE = re.compile(r" +-> ([\w.]+): (Str|Int|Double|Bool)\((.*)\)")
_INSTRUMENTS = {"Histogram": "histogram", "Gauge": "gauge"}


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Collector:
    """Run a collector on the loopback interface, over HTTP and gRPC, as a context manager.

    Args:
        log: The file for its log.
        detailed: Whether it prints every span and point; without that it needs little CPU time.
    """

    def __init__(self, log: Path, *, detailed: bool = True) -> None:
        self._log = log
        self._printing = ["--debug-log", "traces", "--debug-log", "metrics"] if detailed else []
        self._ports = {"http/protobuf": free_port(), "grpc": free_port()}

    def endpoint(self, protocol: str) -> str:
        """Return its address for a protocol."""
        return f"http://127.0.0.1:{self._ports[protocol]}"

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(str(_BINARY), "start", "--exporter", "blackhole"),
                    *self._printing,
                    *("--debug-log-verbosity", "detailed"),
                    *("--otlp-http-endpoint", f"127.0.0.1:{self._ports['http/protobuf']}"),
                    *("--otlp-grpc-endpoint", f"127.0.0.1:{self._ports['grpc']}"),
                ],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        for protocol, port in self._ports.items():
            eventually_sync(
                lambda port=port: _is_open(port),  # type: ignore[misc]
                within_s=20,
                why=f"the collector listens on port {port} for {protocol}",
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def spans(self) -> list[ExportedSpan]:
        """Return all spans so far."""
        return list(self._spans())

    def _spans(self) -> Iterator[ExportedSpan]:
        text = re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text(errors="replace"))
        for resource in text.split("\nResourceSpans #")[1:]:
            resource = resource.split("\nResourceMetrics #")[0]  # noqa: PLW2901 - cut off
            head, *spans = re.split(r"\nSpan #\d+\n", resource)
            service = _attributes(head).get("service.name", "")
            for span in spans:
                yield _span(span, str(service))

    def series(self) -> list[ExportedSeries]:
        """Return one point of each kind so far."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text(errors="replace"))
        found: dict[str, ExportedSeries] = {}
        for resource in text.split("\nResourceMetrics #")[1:]:
            resource = resource.split("\nResourceSpans #")[0]  # noqa: PLW2901 - cut off
            for metric in re.split(r"\nMetric #\d+\n", resource)[1:]:
                for one in _series(metric):
                    found.setdefault(repr(one), one)
        return list(found.values())


def _span(text: str, service: str) -> ExportedSpan:
    head, _, rest = text.partition("\nAttributes:")
    fields = dict(re.findall(r"^ *([\w ]+?) *: (.*)$", head, re.MULTILINE))
    own, _, more = rest.partition("\nEvents:")
    own, _, links = own.partition("\nLinks:") if "\nLinks:" in own else (own, "", more)
    return ExportedSpan(
        name=fields["Name"],
        kind=fields["Kind"].removeprefix("SPAN_KIND_").lower(),
        trace_id=fields["Trace ID"],
        span_id=fields["ID"],
        parent_id=fields.get("Parent ID", ""),
        attributes=_attributes(own),
        is_error=fields["Status code"].endswith("ERROR"),
        links=re.findall(r"SpanLink #\d+\n.*\n +-> ID: (\w+)", links),
        events=re.findall(r"SpanEvent #\d+\n +-> Name: (\S+)", more),
        start=int(fields["Start time"]) / 1e9,
        service=service,
    )


def _series(text: str) -> Iterator[ExportedSeries]:
    fields = dict(re.findall(r"^ +-> (\w+): (.*)$", text, re.MULTILINE))
    kind = fields["DataType"]
    instrument = _INSTRUMENTS.get(kind, "counter" if fields.get("IsMonotonic") == "true" else kind)
    for point in text.split("DataPoints #")[1:]:
        bounds = tuple(float(bound) for bound in re.findall(r"ExplicitBounds #\d+: (.*)", point))
        attributes = _attributes(point.split("\nExemplars:")[0])
        yield ExportedSeries(fields["Name"], fields.get("Unit", ""), instrument, attributes, bounds)


def _attributes(text: str) -> dict[str, Any]:
    found: defaultdict[str, Any] = defaultdict(str)
    for name, kind, value in _ATTRIBUTE.findall(text):
        found[name] = int(value) if kind == "Int" else value
    return dict(found)
