"""The results of the fault tests, counted by request, and the table that shows them."""

import statistics
from collections import Counter
from dataclasses import dataclass, field

from sagastream.testing import EmbeddedServer
from tests.faults.invariants import check_requests

_HEAD = ("fault", "tries", "lost", "doubled", "out of order", "recovery p50", "max", "also seen")


@dataclass
class Row:
    """One fault: how often it was tried, which guarantees were broken, and the recovery times.

    Attributes:
        fault: The injected fault.
        unit: The unit of the recovery times.
        tries: The number of requests that met the fault.
        lost: Requests without a terminal stage, a reply or their effect.
        doubled: Entries, terminal stages, starts and effects beyond the first one.
        out_of_order: Stages that come after a later one.
        recoveries: The time of each recovery.
        notes: Values that only this fault has, by name; the last one stays.
        points: How often the fault was injected at each command.
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
        """Count requests as tried, and fail if a guarantee to one was broken.

        Args:
            store: Their server.
            request_ids: The requests.
            status: The terminal stage that each must have.
            entries: The number of entries of each in the stream; None if the test itself
                deleted some.
        """
        violations = check_requests(store, request_ids, status, entries=entries)
        self.tries += len(request_ids)
        self.lost += violations.lost
        self.doubled += violations.doubled
        self.out_of_order += violations.out_of_order
        assert not violations.messages, f"{self.fault}: {'; '.join(violations.messages[:10])}"

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        counts = (self.tries, self.lost, self.doubled, self.out_of_order)
        p50 = most = ""
        if self.recoveries:
            p50 = f"{statistics.median(self.recoveries):.2f} {self.unit}"
            most = f"{max(self.recoveries):.2f} {self.unit}"
        notes = ", ".join(f"{name} {value}" for name, value in self.notes.items())
        return (self.fault, *(f"{count:,}" for count in counts), p50, most, notes)


class Report:
    """All rows of a test run."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def row(self, fault: str, unit: str = "s") -> Row:
        """Return the row of a fault; tests that inject the same fault share it."""
        return self._rows.setdefault(fault, Row(fault, unit))

    def table(self) -> str:
        """Return the rows with tries as a Markdown table; '' if there is none."""
        rows = sorted(row.cells() for row in self._rows.values() if row.tries)
        if not rows:
            return ""
        lines = [_HEAD, ("---",) * len(_HEAD), *rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def points(self) -> str:
        """Return the commands at which faults were injected, one line for each row."""
        return "\n".join(
            f"{fault}: "
            + ", ".join(f"{command} {count}" for command, count in sorted(row.points.items()))
            for fault, row in sorted(self._rows.items())
            if row.points
        )
