"""Celery on Redis: `delay().get()`; a window of results where several are in flight.

One thread sends and waits, because results of one process share one connection. The worker's pool
is `solo`, the fastest one for empty tasks.
"""

import time
from collections import deque
from typing import Any

import driver
from celery import Celery


def make(url: str) -> tuple[Celery, Any]:
    """Return an application and its only task."""
    app = Celery("benchmark", broker=url, backend=url)
    app.conf.update(
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        result_expires=600,
        task_acks_late=True,
        task_serializer="json",
    )

    @app.task(name="echo")
    def echo(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    return app, echo


def work(url: str) -> None:
    """Run tasks."""
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    make(url)[0].worker_main(["worker", "--pool", "solo", "--loglevel", "ERROR", *quiet])


def under(load: dict[str, Any], echo: Any) -> dict[str, Any]:
    """Keep a number of requests in flight; return the microseconds of each."""
    payload, took = driver.payload_of(load), []
    sent: deque[tuple[float, Any]] = deque()
    began = time.perf_counter()
    until = began + load["seconds"]
    while sent or time.perf_counter() < until:
        while len(sent) < load["in_flight"] and time.perf_counter() < until:
            sent.append((time.perf_counter(), echo.delay(payload)))
        if sent:
            at, result = sent.popleft()
            if result.get(timeout=30) != payload:
                raise ValueError(f"wrong answer to {payload}")
            took.append(time.perf_counter() - at)
    return {
        "seconds": time.perf_counter() - began,
        "took_us": [round(1e6 * one) for one in took],
    }


def ask(url: str) -> None:
    """Run loads and report their figures."""
    _, echo = make(url)
    echo.delay(driver.payload_of({})).get(timeout=driver.STARTING_S)
    driver.report(ready=True)
    for load in driver.loads():
        driver.report(**under(load, echo))


if __name__ == "__main__":
    chosen = driver.arguments()
    (work if chosen.role == "worker" else ask)(chosen.url)
