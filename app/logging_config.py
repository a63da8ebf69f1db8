"""Logs and traces of a process: structured lines with trace ids, spans by OTLP when asked."""

import atexit
import logging
import sys
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from app.config import Settings

_LOG_FIELDS = ("request_id", "correlation_id", "saga_id", "event_type", "robot", "step")
_EXIT_MS = 2000


def _add_trace_ids(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _exporter(settings: Settings) -> SpanExporter:
    # Imported here: gRPC is slow to import, and most runs export nothing.
    if settings.otel_exporter_otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc  # noqa: PLC0415

        return grpc.OTLPSpanExporter(timeout=1)
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http  # noqa: PLC0415

    return http.OTLPSpanExporter(timeout=1)


def configure(settings: Settings, service: str) -> None:
    """Set up logs and traces; call it once, in each process, after any fork.

    Spans are always made, so that entries and logs carry trace ids; they are exported
    only when a standard OTEL_* variable names an endpoint.
    """
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    if settings.exports_spans:
        provider.add_span_processor(
            BatchSpanProcessor(_exporter(settings), schedule_delay_millis=1000)
        )
        atexit.register(provider.shutdown)
    trace.set_tracer_provider(provider)

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_ids,
    ]
    pretty = sys.stderr.isatty()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if pretty else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
