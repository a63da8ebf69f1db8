"""What stands on the server and in missions, as gauges: depth, age, dead letters, sagas, share explored.

The server is asked now and then by the command listeners; every one of them tells the same,
so dashboards take the largest.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from redis.exceptions import RedisError

from app.observability.doctor import GROUP
from sagastream import Bus, SagastreamError
from sagastream._telemetry.operations import destination

_METER = metrics.get_meter("mission")
_LOOK_S = 5.0
_STATES = ("open", "ended", "stuck")

_EXPLORED = _METER.create_gauge(
    "mission.explored", unit="1", description="Share of the area that a running mission knows."
)


def explored(area: str, fraction: float) -> None:
    """How much of an area is known; of several missions there, the one that told last."""
    _EXPLORED.set(fraction, {"mission.area": area})


class ServerGauges:
    """Gauges of command streams and sagas.

    Args:
        bus: Where they are.
        streams: The command streams.
        saga: The saga's declaration, by its name.

    Attributes:
        found: What the server told last, by the name of the gauge.
    """

    def __init__(self, bus: Bus, streams: Sequence[str], saga: str) -> None:
        self._bus = bus
        self._streams = streams
        self._saga = saga
        self.found: dict[str, list[Observation]] = {}
        for name, unit, description in (
            ("sagastream.stream.depth", "{message}", "Commands that nobody has read yet."),
            ("sagastream.stream.pending", "{message}", "Commands that were read and not ended."),
            ("sagastream.stream.pending.age", "s", "Age of the oldest command not ended."),
            ("sagastream.stream.dead_letters", "{message}", "Dead letters that are kept."),
            ("sagastream.sagas", "{saga}", "Sagas by their state."),
        ):
            _METER.create_observable_gauge(
                name, [self._observer(name)], unit=unit, description=description
            )

    def _observer(self, name: str) -> Any:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return self.found.get(name, [])

        return observe

    async def watch(self) -> None:
        """Ask the server now and then, until cancelled; while it is away, tell nothing."""
        while True:
            try:
                self.found = await self._look()
            except (SagastreamError, RedisError, OSError):
                self.found = {}
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> dict[str, list[Observation]]:
        found: dict[str, list[Observation]] = {}

        def note(name: str, value: float, **attributes: str) -> None:
            named = {key.replace("__", "."): text for key, text in attributes.items()}
            found.setdefault(name, []).append(Observation(value, named))

        call, key = self._bus.command, self._bus.key
        for stream in self._streams:
            where = destination(stream)
            low = where.get("messaging.destination.template", stream)
            there = await call("EXISTS", key(stream))
            for group in await call("XINFO", "GROUPS", key(stream)) if there else ():
                if group["name"] != GROUP.encode():
                    continue
                labels = {"messaging__destination__name": low}
                note("sagastream.stream.depth", float(group["lag"] or 0), **labels)
                note("sagastream.stream.pending", float(group["pending"]), **labels)
                oldest = (await call("XPENDING", key(stream), GROUP))["min"]
                age = time.time() - int(oldest.split(b"-")[0]) / 1000 if oldest else 0.0
                note("sagastream.stream.pending.age", max(0.0, age), **labels)
                dead = await call("XLEN", key(f"{stream}:dead"))
                note("sagastream.stream.dead_letters", float(dead), **labels)
        for state in _STATES:
            count = await call("ZCARD", key(f"sagas:{self._saga}:{state}"))
            labels = {"sagastream__saga": self._saga, "sagastream__saga__state": state}
            note("sagastream.sagas", float(count), **labels)
        return found
