"""The application's Celery with an additional task that records a span, to test the pools."""

import redis
from opentelemetry import trace

from app.celery_app import celery_app
from app.config import get_settings

DONE = "spans:done"


@celery_app.task(name="spanned")  # type: ignore[untyped-decorator]
def spanned(number: int) -> None:
    """Record a span and count it."""
    with trace.get_tracer("test").start_as_current_span("inner") as span:
        span.set_attribute("mission.number", number)
    with redis.Redis.from_url(get_settings().redis_url) as client:
        client.rpush(DONE, number)
