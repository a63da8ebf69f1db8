import json
import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from app.config import Settings
from app.logging_config import configure_logs
from sagastream import Bus, Command, Progress, RequestFailed, multi_stage_reply
from sagastream._telemetry.log_context import in_log_context
from sagastream.saga import Compensation, Saga, SagaRunner, Step
from tests.listeners import listening

logger = logging.getLogger("test")


@multi_stage_reply(stream="routing:commands", event_type="routing:plan")
async def plan(_command: Command, _progress: Progress) -> None:
    """Log a line within a handler."""
    logger.warning("planning")


@multi_stage_reply(stream="routing:commands", event_type="routing:fail")
async def fail(_command: Command, _progress: Progress) -> None:
    """Fail."""
    raise LookupError("no such thing")


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_carries_its_context(capsys: pytest.CaptureFixture[str]) -> None:
    """A line carries trace, span, ids, step and attempt of the current work."""
    configure_logs(Settings(log_level="INFO"), "worker")
    tracer = TracerProvider().get_tracer("test")
    with (
        tracer.start_as_current_span("x") as span,
        in_log_context(
            saga_id="s", correlation_id="c", request_id="r", step="plan_route", attempt=2
        ),
    ):
        logger.info("said %s", "so")
    (line,) = _lines(capsys.readouterr().err)
    context = span.get_span_context()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "said so",
        "level": "info",
        "logger": "test",
        "service.name": "worker",
        "saga_id": "s",
        "correlation_id": "c",
        "request_id": "r",
        "step": "plan_route",
        "attempt": 2,
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }


async def test_a_handlers_line_has_its_step(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of a handler carries the request's ids, its attempt and the mission's step."""
    configure_logs(Settings(), "worker")
    async with listening(bus, [plan]):
        await bus.request_and_reply(
            "routing:commands", "routing:plan", {}, request_id="r", correlation_id="c"
        )
    (line,) = [line for line in _lines(capsys.readouterr().err) if line["event"] == "planning"]
    assert (line["request_id"], line["correlation_id"], line["attempt"]) == ("r", "c", 1)
    assert (line["step"], line["direction"]) == ("plan_route", "forward")


async def test_a_saga_logs_one_line_per_transition(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sent, started and ended are logged for step and compensation; polls are not."""
    configure_logs(Settings(log_level="INFO"), "worker")
    step = Step(
        "plan_route",
        "routing:commands",
        "routing:fail",
        lambda given, _: given,
        Compensation("routing:plan", lambda given, _: given),
    )
    runner = SagaRunner(bus, Saga("short", (step,)))
    async with listening(bus, [plan, fail]):
        saga_id = await runner.start({})
        assert (await runner.run(saga_id)).status == "compensated"
    lines = [line for line in _lines(capsys.readouterr().err) if line.get("saga_id") == saga_id]
    said = [line["event"] for line in lines if line["logger"].startswith("sagastream")]
    said = [event.partition(":")[0] for event in said]
    assert sorted(said) == sorted(
        [
            *("plan_route sent", "request started", "handler of routing", "request failed"),
            "plan_route failed; saga compensating",
            *("plan_route sent", "request started", "request completed"),
            "undo plan_route completed; saga compensated",
        ]
    )
    assert all("step" in line and "attempt" in line for line in lines if "plan_route" in str(line))


def test_an_unavailable_collector_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Repeated errors of the exporter are logged once; other loggers are not filtered."""
    configure_logs(Settings(), "worker")
    for _ in range(3):
        logging.getLogger("opentelemetry.exporter").error("not exported: %s", "refused")
        logger.warning("again")
    said = [line["event"] for line in _lines(capsys.readouterr().err)]
    assert said.count("not exported: refused") == 1
    assert said.count("again") == 3


@pytest.mark.parametrize("password", ["s3cr3t", "p%40ss%2Fword"])
def test_secrets_are_redacted(password: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Passwords, URL-encoded or not, and header values are redacted, also in tracebacks."""
    settings = Settings(
        redis_url=f"redis://me:{password}@host:1/0",
        otel_exporter_otlp_headers="authorization=Bearer%20abcdef,x-key=k3y",
    )
    configure_logs(settings, "worker")
    error = RequestFailed({"payload": {"message": f"{settings.redis_url} p@ss/word k3y"}})
    logger.error("cannot reach %s with Bearer abcdef", settings.redis_url, exc_info=error)
    text = capsys.readouterr().err
    assert "***" in text
    for secret in (password, "Bearer abcdef", "k3y"):
        assert secret not in text
    if "%" in password:
        assert "p@ss/word" not in text
