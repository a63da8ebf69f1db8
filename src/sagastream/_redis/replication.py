"""Answers that are held until replicas have confirmed the writes behind them.

A write on a second socket comes after all that the server has answered on the first one, and WAIT
says when replicas have it. While one WAIT is under way, further answers wait for the next one: it
costs a round trip, whatever the pace of requests is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sagastream._redis.protocol import RedisProtocol, pack
from sagastream.errors import NotReplicated

# How long one WAIT may take, in seconds; then the function is called again.
_WAIT_S = 0.2

# Called with None, or with the reason why it is not confirmed.
Confirmed = Callable[[Exception | None], None]


@dataclass(frozen=True, slots=True)
class Replication:
    """How many replicas have to confirm what a server did, and in what time.

    Attributes:
        replicas: How many.
        within_s: How long they have for that, in seconds.

    Raises:
        ValueError: A value is out of range.
    """

    replicas: int
    within_s: float

    def __post_init__(self) -> None:
        if isinstance(self.replicas, bool) or self.replicas < 1:
            raise ValueError(f"replicas must be at least 1, not {self.replicas!r}")
        if not 0 < self.within_s < float("inf"):
            raise ValueError(
                f"replicated_within_s must be a positive number of seconds, not {self.within_s!r}"
            )


class Confirmations:
    """Confirms what one server has answered.

    Args:
        replication: Who has to confirm it.
        address: The server, for errors.
        protocol: A socket to the same server, for nothing else.
    """

    def __init__(self, replication: Replication, address: str, protocol: RedisProtocol) -> None:
        self._replication = replication
        self._address = address
        self.protocol = protocol
        self._waiting: list[Confirmed] = []
        self._key = ""
        self._is_busy = False
        self._error: Exception | None = None

    def add(self, key: str, confirmed: Confirmed) -> None:
        """Confirm what the server has answered until now.

        Args:
            key: A hash that is written to. A repeated function writes nothing, and WAIT would not
                wait for the writes of its first call.
            confirmed: Called when it is confirmed, or with the reason why not.
        """
        self._waiting.append(confirmed)
        self._key = key
        if not self._is_busy:
            self._send()

    def _send(self) -> None:
        group, self._waiting = self._waiting, []
        self._is_busy, self._error = bool(group), None
        if group:
            wait_ms = max(1, round(1000 * min(_WAIT_S, self._replication.within_s)))
            write = pack(("HSET", self._key, "replicated", "1"))
            wait = pack(("WAIT", self._replication.replicas, wait_ms))
            self.protocol.send(
                write + wait, (self._note, lambda answer: self._deliver(group, answer))
            )

    def _note(self, answer: Any) -> None:
        if isinstance(answer, Exception):
            self._error = answer

    def _deliver(self, group: list[Confirmed], answer: Any) -> None:
        error = self._error or (answer if isinstance(answer, Exception) else None)
        if error is None and answer < self._replication.replicas:
            of = f"{answer} of {self._replication.replicas} replicas"
            error = NotReplicated(self._address, f"{of} have confirmed it")
        self._send()
        for confirmed in group:
            confirmed(error)
