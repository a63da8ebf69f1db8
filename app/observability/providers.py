"""The providers of spans and metrics of a process: made after any fork, shut down at its end.

Spans are always made, so that entries and logs carry trace ids. They leave by OTLP when a
standard OTEL_* variable names an endpoint, and go to a file in OTLP JSON when one is named.
Metrics leave by OTLP likewise, and stand on `/metrics` where there is a port for it.
"""

import atexit
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import IO, cast

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from app.config import Settings
from sagastream._telemetry.spans import chosen_span_id

logger = logging.getLogger(__name__)

# A collector that does not answer costs an exit no more than this.
_EXIT_S = 1.5
_EXPORT_S = 1

_running: dict[int, tuple[TracerProvider, MeterProvider]] = {}


class ChosenIds(RandomIdGenerator):
    """Random ids, but for the span of a killed handler, which whoever takes over tells of."""

    def generate_span_id(self) -> int:
        """An id that was chosen for the next span, or a random one."""
        return chosen_span_id.get() or super().generate_span_id()


class SharedFile:
    """A file that several processes append lines to, each line in one write.

    Args:
        path: The file; its folder is made at once, and itself with its first line.
    """

    closed = False

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._descriptor = -1

    def write(self, line: str) -> int:
        """Append a line."""
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o644)
        return os.write(self._descriptor, line.encode())

    def flush(self) -> None:
        """Nothing is held back."""


def start(settings: Settings, service: str) -> None:
    """Make this process's providers, once; they are shut down at its exit, if not before."""
    if os.getpid() in _running:
        return
    resource = Resource.create(
        {
            "service.name": service,
            "service.namespace": "mission",
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
    )
    tracers = TracerProvider(resource=resource, id_generator=ChosenIds(), shutdown_on_exit=False)
    if settings.exports_spans:
        delay_ms = settings.otel_bsp_schedule_delay
        tracers.add_span_processor(
            BatchSpanProcessor(_span_exporter(settings), schedule_delay_millis=delay_ms)
        )
    if settings.trace_file:
        _add_file(tracers, settings.trace_file)
    meters = MeterProvider(_readers(settings), resource=resource, shutdown_on_exit=False)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    _running[os.getpid()] = (tracers, meters)
    atexit.register(shut_down)


def shut_down() -> None:
    """Send what is held back, for as long as an exit may take; safe to call twice."""
    ending = [
        threading.Thread(target=provider.shutdown, daemon=True)
        for provider in _running.pop(os.getpid(), ())
    ]
    for thread in ending:
        thread.start()
    give_up = time.monotonic() + _EXIT_S
    for thread in ending:
        thread.join(max(0.0, give_up - time.monotonic()))


def _add_file(tracers: TracerProvider, path: Path) -> None:
    # Imported here: most processes write no file.
    from opentelemetry.exporter.otlp.json.file.trace_exporter import (  # noqa: PLC0415
        FileSpanExporter,
    )

    try:
        stream = SharedFile(path)
    except OSError as error:
        logger.warning("spans are not kept in %s: %s", path, error)
        return
    # At once, not in batches: what a process did is there however it dies.
    exporter = FileSpanExporter(stream=cast("IO[str]", stream))
    tracers.add_span_processor(SimpleSpanProcessor(exporter))


def _span_exporter(settings: Settings) -> SpanExporter:
    # Imported here: gRPC is slow to import, and most runs export nothing.
    if settings.traces_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc  # noqa: PLC0415

        return grpc.OTLPSpanExporter(timeout=_EXPORT_S)
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http  # noqa: PLC0415

    return http.OTLPSpanExporter(timeout=_EXPORT_S)


def _metric_exporter(settings: Settings) -> MetricExporter:
    if settings.metrics_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc  # noqa: PLC0415

        return grpc.OTLPMetricExporter(timeout=_EXPORT_S)
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as http  # noqa: PLC0415

    return http.OTLPMetricExporter(timeout=_EXPORT_S)


def _readers(settings: Settings) -> list[MetricReader]:
    readers: list[MetricReader] = []
    if settings.exports_metrics:
        interval_ms = settings.otel_metric_export_interval
        readers.append(
            PeriodicExportingMetricReader(
                _metric_exporter(settings),
                export_interval_millis=interval_ms,
                export_timeout_millis=1000 * _EXPORT_S,
            )
        )
    if settings.http_port:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415

        readers.append(PrometheusMetricReader())
    return readers
