"""A request as a pure state machine: the specification of the server's functions, in Python."""

from dataclasses import dataclass, field

TERMINAL = frozenset({"completed", "failed", "cancelled"})
RELEASES_PER_DELIVERY = 4


class NewerLayout(Exception):
    """A newer release wrote the record: every transition refuses it, and changes nothing."""


@dataclass
class Request:
    """One request, its record and its stages, without server, time or transport.

    A lease is current or has lapsed; the caller says which. Each transition returns the answer
    of the function of that name.

    Attributes:
        held: It was superseded while a handler ran, and that handler has not confirmed its end.
        newer: A newer release wrote its record.
    """

    max_deliveries: int
    payload: str | None = None
    status: str = ""
    epoch: int = 0
    released: int = 0
    token: str | None = None
    leased: bool = False
    seq: int = 0
    cancelled: bool = False
    held: bool = False
    newer: bool = False
    entries: int = 0
    acked: bool = False
    dead: int = 0
    stages: list[tuple[str, int]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Return whether it has a terminal stage."""
        return self.status in TERMINAL

    def _end(self, status: str, *, ack: bool) -> None:
        self.status = status
        self.leased = False
        self.acked = self.acked or ack
        self.stages.append((status, self.epoch))

    def _owns(self, token: str) -> bool:
        return self.token == token and not self.ended

    def _check_layout(self) -> None:
        if self.newer:
            raise NewerLayout

    def _confirm(self, token: str) -> None:
        if self.token == token:
            self.held = False

    def emit(self, payload: str) -> str:
        """Send the command."""
        self._check_layout()
        if self.payload is None:
            self.payload = payload
            if self.cancelled:
                self._end("cancelled", ack=False)
                return "known"
            self.status = "pending"
            self.entries += 1
            return "new"
        return "known" if self.payload == payload else "conflict"

    def begin(self, token: str, *, lapses: bool) -> str:
        """Claim the request; `lapses` if the lease of this claim is over at once."""
        self._check_layout()
        if self.ended:
            self.acked = True
            return "done"
        if self.token == token:
            return "claimed"
        if self.status == "running" and self.leased:
            return "busy"
        if (
            self.epoch + 1 - self.released > self.max_deliveries
            or self.released >= RELEASES_PER_DELIVERY * self.max_deliveries
        ):
            self.dead += 1
            self._end("failed", ack=True)
            return "done"
        self.epoch += 1
        self.status, self.token, self.leased, self.seq = "running", token, not lapses, 0
        self.stages.append(("start", self.epoch))
        return "claimed"

    def progress(self, token: str, seq: int) -> str:
        """Report progress with a number."""
        self._check_layout()
        if not self._owns(token):
            return "stale"
        if seq > self.seq:
            self.seq = seq
            self.stages.append(("progress", self.epoch))
        return "ok"

    def finish(self, token: str, status: str) -> str:
        """Write a terminal stage."""
        self._check_layout()
        self._confirm(token)
        if self.token == token and self.status == status:
            return "ok"
        if not self._owns(token):
            return "stale"
        self._end(status, ack=True)
        return "ok"

    def renew(self, token: str) -> str:
        """Renew the lease: `1` renewed, `c` renewed but cancelled, `0` not the claim's.

        A superseded request whose handler still runs is held for longer.
        """
        if self.newer:
            return "0"
        if self.held and self.token == token:
            self.leased = True
            return "c"
        if self.token != token or self.status != "running":
            return "0"
        self.leased = True
        return "c" if self.cancelled else "1"

    def release(self, token: str) -> str:
        """Release the claim, as a listener does that shuts down."""
        self._check_layout()
        self._confirm(token)
        if not self._owns(token):
            return "stale" if self.ended or self.leased else "unclaimed"
        self.token, self.leased = "", False
        self.released += 1
        return "ok"

    def supersede(self) -> None:
        """End it because another request is emitted that supersedes it."""
        self._check_layout()
        if self.payload is None:
            self.cancelled = True
        elif not self.ended:
            self.held = self.status == "running" and self.token != ""  # not one that was given back
            self.epoch += 1
            leased = self.leased
            self._end("cancelled", ack=False)
            self.leased = leased and self.held

    @property
    def holds(self) -> bool:
        """Whether a request that superseded it has to wait for its handler."""
        return self.held and self.leased

    def reject(self) -> str:
        """Make its entry a dead letter, as it cannot be begun; a newer record is left alone."""
        if self.acked or not self.entries:
            return "done"
        self.acked = True
        self.dead += 1
        if not self.ended and not self.newer:
            self._end("failed", ack=True)
        return "ok"

    def cancel(self) -> str:
        """Cancel the request."""
        self._check_layout()
        if self.payload is None:
            self.cancelled = True
            return "cancelled"
        if self.ended:
            return self.status
        if self.status == "pending":
            self._end("cancelled", ack=False)
            return "cancelled"
        self.cancelled = True
        return "cancelling"
