"""Logs of a process: structured lines that say what they belong to; JSON when nobody watches.

`configure` sets up logs, spans and metrics together; a process that is going to fork sets up
its logs alone, and each child the rest.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from opentelemetry import trace

from app.config import Settings
from app.missions.steps import STEPS, UNDO
from app.observability import providers
from sagastream._telemetry.spans import belonging

_HIDDEN = "***"


def configure(settings: Settings, service: str) -> None:
    """Set up logs, spans and metrics; call it in each process, after any fork."""
    configure_logs(settings, service)
    providers.start(settings, service)


def configure_logs(settings: Settings, service: str) -> None:
    """Set up logs alone."""

    def add_service(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
        return {**event, "service.name": service}

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        _add_belonging,
        _add_trace_ids,
    ]
    pretty = sys.stderr.isatty()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if pretty else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(),
            _without(_secrets(settings)),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_Once())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


class _Once(logging.Filter):
    """What OpenTelemetry has to say, once: a collector that is down is no news each second."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this was not said before."""
        if not record.name.startswith("opentelemetry."):
            return True
        new = str(record.msg) not in self._said
        self._said.add(str(record.msg))
        return new


def _add_belonging(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    """The ids, step and attempt of what the line is about, where the line does not say."""
    event = {**belonging.get(), **event}
    event_type = str(event.get("event_type", ""))
    step = STEPS.get(event_type) or UNDO.get(event_type)
    if step and "step" not in event:
        event |= {"step": step, "direction": "undo" if event_type in UNDO else "forward"}
    return {name: value for name, value in event.items() if value != ""}


def _add_trace_ids(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _secrets(settings: Settings) -> list[str]:
    """What must not be in any line, whatever an error's text quotes."""
    password = urlsplit(settings.redis_url).password or ""
    headers = settings.otel_exporter_otlp_headers.split(",")
    values = [header.partition("=")[2].strip() for header in headers]
    found = {password, unquote(password), *values, *(unquote(value) for value in values)}
    return sorted(found - {""}, key=len, reverse=True)


def _without(secrets: list[str]) -> Callable[[Any, str, Any], str]:
    def hide(_logger: Any, _name: str, line: Any) -> str:
        text = str(line)
        for secret in secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    return hide
