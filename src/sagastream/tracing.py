"""Continue a trace where another transport carries the work, and log the ids that it works for.

The library traces its own messages. A program that sends part of a saga's work through a task
queue uses these functions, so that its spans and metrics follow the same conventions.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.context import attach, detach
from opentelemetry.trace import use_span

from sagastream._telemetry import metrics, spans
from sagastream._telemetry.log_context import in_log_context, log_context
from sagastream._telemetry.operations import server_of
from sagastream._telemetry.operations import template as stream_template
from sagastream._telemetry.trace_context import context_fields, extract, next_span_id

__all__ = ["chosen_span_id", "log_context", "process_span", "send_span", "stream_template"]


def chosen_span_id() -> int:
    """The id that the next span must get, 0 for any id.

    If a provider's id generator calls this, the library can record the span of a handler that
    was killed, with the id that the spans below it name as their parent.
    """
    return next_span_id.get()


@contextmanager
def send_span(url: str, destination: str, fields: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Trace and count the sending of a message.

    Args:
        url: The broker.
        destination: The queue or stream.
        fields: `entry_id`, and any of the entry's ids, `step` and `direction`.

    Yields:
        The trace context, and what other propagators carry, as headers for the message.
    """
    with spans.sending(server_of(url), destination, fields):
        yield context_fields()


@contextmanager
def process_span(
    url: str,
    destination: str,
    fields: Mapping[str, str],
    headers: Mapping[str, str],
    *,
    kind: str,
    redelivered: bool = False,
) -> Iterator[None]:
    """Trace, count and time the processing of a message, as a child of the span that sent it.

    Args:
        url: The broker.
        destination: The queue or stream.
        fields: As for `send_span`; those that name a saga, a request or a step are in
            `log_context` meanwhile.
        headers: What `send_span` yielded.
        kind: The `sagastream.event_type` of the series, such as the name of a task.
        redelivered: It was delivered before: the span is only linked to the sender's.
    """
    server = server_of(url)
    message = {**headers, **fields}
    span = spans.processing(server, destination, message, redelivered=redelivered)
    series = spans.process_operation(server, destination, fields).series
    started, error_type = time.perf_counter(), ""
    metrics.consumed(series, 1)
    context = {name: value for name, value in fields.items() if name != "entry_id"}
    token = attach(extract({"context": headers.get("context")}))
    try:
        with (
            use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False),
            in_log_context(**context),
        ):
            try:
                yield
            except Exception as error:
                error_type = type(error).__name__
                spans.fail(span, error_type, str(error))
                raise
    finally:
        detach(token)
        metrics.processed(series, time.perf_counter() - started, kind, error_type)
