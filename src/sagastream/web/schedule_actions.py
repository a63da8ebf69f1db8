"""The actions of an operator on schedules; each is the same as a verb of `sagastream schedule`."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from sagastream.bus import Bus
from sagastream.schedules import (
    drop_schedule,
    pause_schedule,
    resolve_schedule,
    resume_schedule,
    run_schedule,
)
from sagastream.web.forms import Confirm, Confirmation, Do


@dataclass(frozen=True, slots=True)
class ScheduleActions:
    """The actions on schedules, by their address.

    Args:
        bus: The server.
    """

    bus: Bus

    def by_path(self) -> dict[str, tuple[Confirm, Do]]:
        """How each action is confirmed and done; the latter returns the address to show next."""
        return {
            "/schedule/pause": (self._confirm_pause, self._pause),
            "/schedule/resume": (self._confirm_resume, self._resume),
            "/schedule/run": (self._confirm_run, self._run),
            "/schedule/drop": (self._confirm_drop, self._drop),
        }

    async def _confirm_pause(self, given: Mapping[str, str]) -> Confirmation:
        text = "No listener fires it until it is resumed. Requests that it has emitted go on."
        return await self._asked("Pause", given, text)

    async def _pause(self, given: Mapping[str, str]) -> str:
        await pause_schedule(self.bus, given.get("name", ""))
        return _shown("schedule-paused")

    async def _confirm_resume(self, given: Mapping[str, str]) -> Confirmation:
        text = "It is fired again from its next due time on. What was due meanwhile is skipped."
        return await self._asked("Resume", given, text)

    async def _resume(self, given: Mapping[str, str]) -> str:
        await resume_schedule(self.bus, given.get("name", ""))
        return _shown("schedule-resumed")

    async def _confirm_run(self, given: Mapping[str, str]) -> Confirmation:
        text = "It emits one request now, also if it is paused. Its due times stay as they are."
        return await self._asked("Run", given, text)

    async def _run(self, given: Mapping[str, str]) -> str:
        request_id = await run_schedule(self.bus, given.get("name", ""))
        return f"/request?{urlencode({'id': request_id, 'done': 'run'})}"

    async def _confirm_drop(self, given: Mapping[str, str]) -> Confirmation:
        text = (
            "It is deleted. If the code of a listener declares it, that listener sets it again at its "
            "start. Requests that it has emitted go on."
        )
        return await self._asked("Drop", given, text)

    async def _drop(self, given: Mapping[str, str]) -> str:
        await drop_schedule(self.bus, given.get("name", ""))
        return _shown("schedule-dropped")

    async def _asked(self, verb: str, given: Mapping[str, str], text: str) -> Confirmation:
        found = await resolve_schedule(self.bus, given.get("name", ""))
        fields = {"name": found.name}
        return Confirmation(
            f"{verb} the schedule {found.name}", text, "/schedules", fields, "schedules"
        )


def _shown(done: str) -> str:
    return f"/schedules?{urlencode({'done': done})}"
