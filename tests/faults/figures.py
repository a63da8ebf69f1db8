"""What the fault tests saw, counted request by request, and the one table that they end with."""

import statistics
from collections import Counter
from dataclasses import dataclass, field

from sagastream.testing import EmbeddedServer
from tests.faults.invariants import verdict

_HEAD = ("fault", "tries", "lost", "doubled", "out of order", "recovery p50", "max", "also seen")


@dataclass
class Row:
    """One fault: how often it was tried, what went wrong, and how long things took.

    Attributes:
        fault: What was done.
        unit: What recoveries are measured in.
        tries: How many requests met the fault.
        lost: Requests without their end, their reply or their effect.
        doubled: Entries, ends and effects that a request had more than one of.
        out_of_order: Stages that stand where they must not.
        recoveries: How long each recovery took.
        notes: Figures that belong to this fault alone, by name; the last one stays.
        points: At which commands the fault struck, and how often.
    """

    fault: str
    unit: str = "s"
    tries: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    recoveries: list[float] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    points: Counter[str] = field(default_factory=Counter)

    def check(
        self,
        store: EmbeddedServer,
        *request_ids: str,
        status: str = "completed",
        entries: int | None = 1,
    ) -> None:
        """Count requests as tried, and fail if a promise to one was broken.

        Args:
            store: Where they were.
            request_ids: The requests.
            status: How they must have ended.
            entries: How many entries each must have in its stream; None where the test itself
                deleted some.
        """
        seen = verdict(store, request_ids, status, entries=entries)
        self.tries += len(request_ids)
        self.lost += seen.lost
        self.doubled += seen.doubled
        self.out_of_order += seen.out_of_order
        assert not seen.wrong, f"{self.fault}: {'; '.join(seen.wrong[:10])}"

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        counts = (self.tries, self.lost, self.doubled, self.out_of_order)
        p50 = most = ""
        if self.recoveries:
            p50 = f"{statistics.median(self.recoveries):.2f} {self.unit}"
            most = f"{max(self.recoveries):.2f} {self.unit}"
        notes = ", ".join(f"{name} {value}" for name, value in self.notes.items())
        return (self.fault, *(f"{count:,}" for count in counts), p50, most, notes)


class Figures:
    """All rows of a run."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def row(self, fault: str, unit: str = "s") -> Row:
        """The row of a fault; tests that try the same one share it."""
        return self._rows.setdefault(fault, Row(fault, unit))

    def table(self) -> str:
        """The rows that something was tried for, as a Markdown table; empty without any."""
        rows = sorted(row.cells() for row in self._rows.values() if row.tries)
        if not rows:
            return ""
        lines = [_HEAD, ("---",) * len(_HEAD), *rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def points(self) -> str:
        """Where the faults struck that strike at a command, a line a row."""
        return "\n".join(
            f"{fault}: "
            + ", ".join(f"{point} {count}" for point, count in sorted(row.points.items()))
            for fault, row in sorted(self._rows.items())
            if row.points
        )
