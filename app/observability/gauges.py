"""Gauges of command streams, sagas and explored area.

Command listeners read the server's state at intervals. All of them report the same values, so
dashboards take the maximum.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from sagastream import Bus, SagastreamError
from sagastream.saga import SagaRunner
from sagastream.status import stream_status
from sagastream.tracing import stream_template

_METER = metrics.get_meter("mission")
_INTERVAL_S = 5.0

_EXPLORED = _METER.create_gauge(
    "mission.explored", unit="1", description="Share of the area that a running mission knows."
)


def record_explored(area: str, fraction: float) -> None:
    """Record the known share of an area, 0 to 1; the last report of several missions wins."""
    _EXPLORED.set(fraction, {"mission.area": area})


class ServerGauges:
    """Observable gauges of command streams and sagas.

    Args:
        bus: The server to read.
        streams: The command streams to report.
        runner: The runner of the sagas to count.

    Attributes:
        observations: The values of the last read, by the name of the gauge.
    """

    def __init__(self, bus: Bus, streams: Sequence[str], runner: SagaRunner) -> None:
        self._bus = bus
        self._streams = streams
        self._runner = runner
        self.observations: dict[str, list[Observation]] = {}
        for name, unit, description in (
            ("sagastream.stream.depth", "{message}", "Commands that no listener has read yet."),
            ("sagastream.stream.pending", "{message}", "Commands that were read but not ended."),
            ("sagastream.stream.pending.age", "s", "Age of the oldest pending command."),
            ("sagastream.stream.dead_letters", "{message}", "Dead letters that are kept."),
            ("sagastream.sagas", "{saga}", "Sagas by their state."),
        ):
            _METER.create_observable_gauge(
                name, [self._observer(name)], unit=unit, description=description
            )

    def _observer(self, name: str) -> Any:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return self.observations.get(name, [])

        return observe

    async def watch(self) -> None:
        """Read the server at intervals until cancelled; report nothing while it is unavailable."""
        while True:
            try:
                self.observations = await self._read()
            except SagastreamError:
                self.observations = {}
            await asyncio.sleep(_INTERVAL_S)

    async def _read(self) -> dict[str, list[Observation]]:
        observations: dict[str, list[Observation]] = {}

        def add(name: str, value: float, labels: dict[str, str]) -> None:
            observations.setdefault(name, []).append(Observation(value, labels))

        for stream in self._streams:
            status = await stream_status(self._bus, stream)
            if not status.has_group:
                continue
            labels = {"messaging.destination.name": stream_template(stream)}
            add("sagastream.stream.depth", float(status.depth), labels)
            add("sagastream.stream.pending", float(status.pending), labels)
            add("sagastream.stream.pending.age", status.oldest_pending_s, labels)
            add("sagastream.stream.dead_letters", float(status.dead_letters), labels)
        for state, count in (await self._runner.counts()).items():
            labels = {"sagastream.saga": self._runner.saga.name, "sagastream.saga.state": state}
            add("sagastream.sagas", float(count), labels)
        return observations
