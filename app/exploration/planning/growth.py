"""How fast a map grows with the way that its robots drive."""

from bisect import bisect_right

LONG_WINDOW = 0.3  # of the way so far: the last part of it that counts as recent
SHORT_WINDOW = 0.15


class Growth:
    """The known area over the way driven by a team.

    Args:
        window_m: shortest recent way that is compared, metres.
    """

    def __init__(self, *, window_m: float) -> None:
        self._window_m = window_m
        self._driven_m: list[float] = []
        self._known: list[int] = []

    def add(self, driven_m: float, known: int) -> None:
        """Add a measurement.

        Args:
            driven_m: metres that the team has driven; never less than before.
            known: cells that it knows.
        """
        self._driven_m.append(driven_m)
        self._known.append(known)

    def recent_share(self, window_share: float) -> float:
        """Return the recent growth per metre as a share of the average; 1 at the beginning.

        Args:
            window_share: the last part of the way that counts as recent, as a share of all of it.
        """
        driven = self._driven_m[-1] - self._driven_m[0] if self._driven_m else 0.0
        window = max(self._window_m, window_share * driven)
        if driven < 2.0 * window:
            return 1.0
        # The first measurement follows the first scans, for which nobody drove.
        first = bisect_right(self._driven_m, self._driven_m[-1] - window) - 1
        recent = (self._known[-1] - self._known[first]) / (
            self._driven_m[-1] - self._driven_m[first]
        )
        average = (self._known[-1] - self._known[0]) / driven
        return recent / average if average > 0.0 else 1.0
