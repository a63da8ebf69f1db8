"""Structured logs: every line carries the ids of the work. JSON unless stderr is a terminal.

`app.observability.providers.configure` sets up logs, spans and metrics together. A process that
forks calls only `configure_logs`; each child sets up the rest.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog
from opentelemetry import trace

from app.config import Settings
from app.event_types import step_of
from sagastream.tracing import log_context

_HIDDEN = "***"


def configure_logs(settings: Settings, service: str) -> None:
    """Send all logs of this process to stderr, with its service name on each line."""

    def add_service(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
        return {**event, "service.name": service}

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        _add_log_context,
        _add_trace_ids,
    ]
    pretty = sys.stderr.isatty()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if pretty else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(),
            _redact(_secrets(settings)),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_RepeatedExportErrors())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


class _RepeatedExportErrors(logging.Filter):
    """Drop repeated messages of OpenTelemetry, which logs one a second while a collector is down."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        if not record.name.startswith("opentelemetry."):
            return True
        is_new = str(record.msg) not in self._logged
        self._logged.add(str(record.msg))
        return is_new


def _add_log_context(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    """Add the ids, step and attempt of the current work; fields of the line itself win."""
    event = {**log_context(), **event}
    step = step_of(str(event.get("event_type", "")))
    if step and "step" not in event:
        event |= {"step": step[0], "direction": step[1]}
    return {name: value for name, value in event.items() if value != ""}


def _add_trace_ids(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _secrets(settings: Settings) -> list[str]:
    """Return the secrets that no line may contain, longest first, as written and URL-decoded."""
    passwords = [
        password
        for url in map(urlsplit, (settings.redis_url, settings.broker_url))
        for password in (
            url.password or "",
            *(value for name, value in parse_qsl(url.query) if name.endswith("password")),
        )
    ]
    headers = settings.otel_exporter_otlp_headers.split(",")
    values = [header.partition("=")[2].strip() for header in headers]
    found = {
        *passwords,
        *(unquote(password) for password in passwords),
        settings.web_token,
        *values,
        *(unquote(value) for value in values),
    }
    return sorted(found - {""}, key=len, reverse=True)


def _redact(secrets: list[str]) -> Callable[[Any, str, Any], str]:
    def redact(_logger: Any, _name: str, line: Any) -> str:
        text = str(line)
        for secret in secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    return redact
