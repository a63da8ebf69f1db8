"""Requests that several callers send without a pause, and what became of each."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sagastream import Bus, Command, Handler, Progress, SagastreamError

STREAM = "work:commands"
EVENT = "work:do"
_PAUSE_S = 0.02


@dataclass
class Load:
    """Requests by several callers at once, and an effect outside the server for each.

    Attributes:
        callers: How many callers send requests.
        name: What the ids of the requests begin with.
        sent: When each request was sent that has not ended, by its id.
        acknowledged: The ids that were emitted without a wait, and acknowledged.
        completed: The ids whose reply came.
        errors: The types of the errors that callers got.
        effects: How often each id had its effect.
        stale: Effects in an epoch below one that the resource had seen.
        slowest_s: The longest time from the first moment of `watched_from` to an end.
        watched_from: From when on the time to the end counts, by the monotonic clock.
    """

    callers: int = 16
    name: str = "r"
    sent: dict[str, float] = field(default_factory=dict)
    acknowledged: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    stale: int = 0
    slowest_s: float = 0.0
    watched_from: float = float("inf")
    _epochs: dict[str, int] = field(default_factory=dict)
    _number: int = 0

    def handler(self, stream: str = STREAM) -> Handler:
        """The handler of the requests; its effect checks the epoch, as a resource outside should."""
        return Handler(stream, EVENT, self._handle)

    async def _handle(self, command: Command, _progress: Progress) -> dict[str, Any]:
        name = command.request_id
        if command.epoch < self._epochs.get(name, 0):
            self.stale += 1
        self._epochs[name] = command.epoch
        self.effects[name] += 1
        return {}

    async def run(self, bus: Bus, ending: asyncio.Event) -> None:
        """Send requests until `ending` is set, and wait for those that are sent."""
        await asyncio.gather(*(self._call(bus, ending, n) for n in range(self.callers)))

    async def _call(self, bus: Bus, ending: asyncio.Event, caller: int) -> None:
        while not ending.is_set():
            self._number += 1
            request_id = f"{self.name}{self._number}"
            self.sent[request_id] = time.monotonic()
            try:
                if caller % 4 == 0:
                    await bus.emit_command(
                        STREAM, event_type=EVENT, payload={}, request_id=request_id
                    )
                    self.acknowledged.append(request_id)
                else:
                    await bus.request_and_reply(STREAM, EVENT, {}, 60, request_id=request_id)
                    self.completed.append(request_id)
            except SagastreamError as error:
                self.errors[type(error).__name__] += 1
            ended = time.monotonic()
            if self.sent.pop(request_id) < self.watched_from < ended:
                self.slowest_s = max(self.slowest_s, ended - self.watched_from)
            await asyncio.sleep(_PAUSE_S)  # the pace of a caller

    @property
    def doubled(self) -> int:
        """How many effects there were beyond the first one of each request."""
        return sum(self.effects.values()) - len(self.effects)

    async def lost(self, bus: Bus, *, within_s: float) -> list[str]:
        """The acknowledged requests that the server does not know or that do not end."""
        missing, until = self.acknowledged, time.monotonic() + within_s
        while missing and time.monotonic() < until:
            found = await asyncio.gather(*(bus.outcome(name) for name in missing))
            missing = [name for name, outcome in zip(missing, found, strict=True) if not outcome]
            await asyncio.sleep(0.1 if missing else 0)
        return missing
