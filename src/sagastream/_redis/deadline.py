"""`Deadline`: when a call has to end, passed down through everything that the call waits for."""

import asyncio
import math


class Deadline:
    """The end of a call, by the clock of its event loop.

    It is made once, where the user names a timeout. Whatever the call then waits for gets what
    is left of it.

    Args:
        seconds: Seconds from now; `math.inf` for a call that waits as long as it takes.

    Attributes:
        seconds: The whole length, for messages.
        error: The last error that the call met, None if none.
    """

    __slots__ = ("_at", "_now", "_outer", "error", "seconds")

    def __init__(self, seconds: float, *, outer: "Deadline | None" = None) -> None:
        self.seconds = seconds
        self.error: BaseException | None = None
        self._outer = outer
        self._now = asyncio.get_running_loop().time
        self._at = self._now() + seconds

    @property
    def left_s(self) -> float:
        """How much is left, in seconds; 0 when it has passed."""
        return max(0.0, self._at - self._now())

    @property
    def is_over(self) -> bool:
        """Whether it has passed."""
        return self.left_s <= 0.0

    def at_most(self, seconds: float) -> "Deadline":
        """This deadline, or a nearer one for a part of the call."""
        return self if self.left_s <= seconds else Deadline(seconds, outer=self)

    def note(self, error: BaseException) -> None:
        """Remember an error that the call met, for the message of its timeout."""
        self.error = error
        if self._outer:
            self._outer.note(error)

    def timeout(self) -> asyncio.Timeout:
        """A context that ends with `TimeoutError` when the deadline passes."""
        left_s = self.left_s
        return asyncio.timeout(None if left_s == math.inf else left_s)
