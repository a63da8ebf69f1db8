"""What propagators other than W3C Trace Context carry from requester to handler, such as baggage.

The propagators are the configured ones: `OTEL_PROPAGATORS`, or `set_global_textmap`. What they
inject, apart from the trace context, is one text: a JSON object of strings.
"""

import json
import logging

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, get_current
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

try:
    from opentelemetry import propagate
except Exception as error:  # noqa: BLE001 - a propagator may raise anything
    # OTEL_PROPAGATORS may name one that is not installed here.
    logging.getLogger(__name__).warning("only the trace context is propagated: %s", error)
    propagate = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_DEFAULT = (W3CBaggagePropagator, TraceContextTextMapPropagator)
# The largest context that is carried, in bytes of JSON.
MAX_CONTEXT_BYTES = 8192
# An entry has the trace context in fields with these names.
_TRACE_CONTEXT = ("traceparent", "tracestate")


def injected() -> str:
    """What the configured propagators inject for the current context.

    Returns:
        The text; '' if there is nothing to carry, or if it is too large or no text.
    """
    if not get_current() and _is_default():
        return ""  # the default propagators carry what is in the context
    carrier: dict[str, str] = {}
    try:
        if propagate is not None:
            propagate.inject(carrier)
        for name in _TRACE_CONTEXT:
            carrier.pop(name, None)
        if not carrier:
            return ""
        text = json.dumps(carrier, separators=(",", ":"))
        _check_size(text)
    except Exception as error:  # noqa: BLE001 - a propagator may raise anything
        logger.debug("context not propagated: %r", error)
        return ""
    return text


def _is_default() -> bool:
    """Whether the propagators are those for trace context and baggage."""
    if propagate is None:
        return True
    propagator = propagate.get_global_textmap()
    inner = getattr(propagator, "_propagators", None)
    return inner is not None and all(isinstance(each, _DEFAULT) for each in inner)


def extracted(text: str | bytes, context: Context) -> Context:
    """Add to a context what another process has injected.

    Args:
        text: What `injected` returned there.
        context: The context.

    Returns:
        The new context; the given one if the text is malformed or too large.
    """
    try:
        _check_size(text)
        carrier = json.loads(text)
        if not isinstance(carrier, dict) or not all(
            isinstance(value, str) for value in carrier.values()
        ):
            raise TypeError("not an object of strings")  # noqa: TRY301
        return context if propagate is None else propagate.extract(carrier, context)
    except Exception as error:  # noqa: BLE001 - a propagator may raise anything
        logger.debug("context ignored: %r", error)
        return context


def _check_size(text: str | bytes) -> None:
    if len(text) > MAX_CONTEXT_BYTES:
        raise ValueError(f"{len(text)} bytes, more than {MAX_CONTEXT_BYTES}")
