"""The list of missions: filtered, sorted and paged, each with its progress and how it ended."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.missions.mission_saga import Rejected, mission_runner
from app.missions.reports import duration_of, result_of, summary_of
from app.web.deliveries import waits_of
from app.web.mission_progress import progress_of
from sagastream.saga import Journal

PER_PAGE = 50
_BY_HAND = {"Cancelled", Rejected.__name__}
_HOUR_S = 3600

# `cancelled` and `failed` are the two ways to be compensated.
Status = Literal[
    "running",
    "compensating",
    "completed",
    "compensated",
    "cancelled",
    "failed",
    "stuck",
    "unreadable",
]
Sort = Literal["newest", "oldest", "area", "longest", "coverage"]


class MissionFilter(BaseModel):
    """Which missions, and in which order."""

    model_config = ConfigDict(extra="ignore")

    status: Annotated[Status | Literal[""], Field(description="Empty for all.")] = ""
    area: Annotated[str, Field(max_length=64, description="A part of the area's name.")] = ""
    text: Annotated[
        str, Field(max_length=200, description="A part of the id, the error or the current step.")
    ] = ""
    hours: Annotated[
        float | Literal[""], Field(description="Started within so long; empty for any time.")
    ] = ""
    sort: Sort = "newest"
    page: Annotated[int, Field(ge=1, le=10_000)] = 1

    @property
    def is_any(self) -> bool:
        """Whether all missions fit."""
        return not (self.status or self.area or self.text or self.hours)

    def fits(self, journal: Journal) -> bool:
        """Whether a mission fits."""
        summary = summary_of(journal)
        texts = (journal.saga_id, summary["at"], error_line(journal) or "")
        is_recent = not self.hours or time.time() - journal.started < self.hours * _HOUR_S
        return (
            self.status in {"", journal.status, outcome_of(journal)}
            and self.area.lower() in (summary["area"] or "").lower()
            and any(self.text.lower() in text.lower() for text in texts)
            and is_recent
        )


@dataclass(frozen=True, slots=True)
class MissionPage:
    """A page of the list.

    Attributes:
        rows: A summary of each mission.
        count: How many missions fit in all.
        number: The number of the page, from 1.
        pages: How many pages there are.
    """

    rows: list[dict[str, Any]]
    count: int
    number: int
    pages: int


_ORDERS: dict[Sort, tuple[Callable[[Journal], Any], bool]] = {
    "newest": (lambda journal: journal.started, True),
    "oldest": (lambda journal: journal.started, False),
    "area": (lambda journal: str(journal.input.get("area", "")), False),
    "longest": (lambda journal: duration_of(journal) if journal.entries else 0.0, True),
    "coverage": (lambda journal: result_of(journal).get("coverage", -1.0), True),
}


async def find_missions(given: MissionFilter, *, per_page: int | None = PER_PAGE) -> MissionPage:
    """Return the missions that fit; None as `per_page` returns all on one page.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    fitting = [each for each in reversed(await mission_runner().journals()) if given.fits(each)]
    key, is_reversed = _ORDERS[given.sort]
    fitting.sort(key=key, reverse=is_reversed)
    size = per_page or max(1, len(fitting))
    pages = max(1, -(-len(fitting) // size))
    number = min(given.page, pages)
    shown = fitting[(number - 1) * size : number * size]
    rows = await asyncio.gather(*(_row(journal) for journal in shown))
    return MissionPage(list(rows), len(fitting), number, pages)


def outcome_of(journal: Journal) -> str:
    """The status of a mission; of a compensated one whether it was `cancelled` or has `failed`."""
    if journal.status != "compensated":
        return journal.status
    return "cancelled" if journal.error.get("error_type") in _BY_HAND else "failed"


def error_line(journal: Journal) -> str | None:
    """Why a mission did not complete; None if it did, or still may."""
    if journal.status == "unreadable" or not journal.error:
        return None
    kind, message = (journal.error.get(name, "") for name in ("error_type", "message"))
    return str(message) if kind == "Cancelled" else f"{kind}: {message}"


async def _row(journal: Journal) -> dict[str, Any]:
    is_readable = journal.status != "unreadable"
    return (
        summary_of(journal)
        | await progress_of(journal)
        | {
            "outcome": outcome_of(journal) if is_readable else None,
            "duration_s": round(duration_of(journal), 1) if is_readable else None,
            "coverage": result_of(journal).get("coverage"),
            "waits_for": await waits_of(journal),
            "error_line": error_line(journal),
        }
    )
