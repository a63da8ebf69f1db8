"""Renew leases from a thread with its own connection.

So a lease is renewed even while a handler blocks the event loop. The thread reports a lease that
the server no longer grants, and a request that was cancelled, to the event loop, which cancels
the handler. It also gives deliveries back that the event loop could not give back.
"""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from sagastream._functions.library import SOURCE
from sagastream._functions.requests import release_command, renew_command
from sagastream._redis.nodes import Servers
from sagastream._redis.sync import SyncConnection
from sagastream.errors import SagastreamError, ServerError, UnknownLayout
from sagastream.retention import Retention

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClaimOptions:
    """What all claims of a listener, or of one handler, have in common.

    Attributes:
        group: The consumer group.
        consumer: The listener.
        lease_s: How long a claim lasts without renewal, in seconds.
        max_deliveries: How many handlers a request may lose before it becomes a dead letter.
        progress_interval_s: Progress that comes faster is coalesced: the newest wins.
        retention: How long results are kept.
        tracebacks: Whether failed replies have one.
    """

    group: str
    consumer: str
    lease_s: float
    max_deliveries: int
    progress_interval_s: float
    retention: Retention
    tracebacks: bool = True


class Leased(Protocol):
    """A delivery that is kept from other listeners.

    Attributes:
        record: The key of the request's record.
        stream: The key of the command stream.
        entry_id: The command's entry.
        token: The claim's token.
        lease_token: The same once the claim has begun; '' while it waits for its turn.
        idle_ms: For how long its entry counts as idle when it is given back.
    """

    record: str
    stream: str
    entry_id: str
    token: str
    idle_ms: int

    @property
    def lease_token(self) -> str:
        """The token of a claim that has begun; '' for a delivery that waits for its turn."""

    def on_lost(self) -> None:
        """Called once, from the thread, when the server no longer grants the lease."""

    def on_cancel(self) -> None:
        """Called from the thread, perhaps several times, when the request is to be cancelled."""


class LeaseKeeper:
    """Renews the leases of one listener every third of a lease.

    Args:
        servers: The server, the service or the cluster.
        wakeup_list: The key of a list; a push to it makes the thread check its claims now.
        group: The consumer group.
        consumer: The listener.
        lease_s: How long a lease is, in seconds.

    Attributes:
        wakeup_list: The same key.
    """

    def __init__(
        self, servers: Servers, *, wakeup_list: str, group: str, consumer: str, lease_s: float
    ) -> None:
        self._servers = servers
        self.wakeup_list = wakeup_list
        self._group = group
        self._consumer = consumer
        self._lease_s = lease_s
        self._claims: dict[str, Leased] = {}
        self._returned: dict[str, tuple[Leased, float]] = {}
        self._closing = threading.Event()
        self._has_returned = threading.Event()
        self._contact_since = self._answered_at = time.monotonic()

    @property
    def contact_s(self) -> float:
        """For how long the server has answered without a gap, in seconds; 0 while it does not."""
        now = time.monotonic()
        return 0.0 if self._is_gap(now) else now - self._contact_since

    def _is_gap(self, now: float) -> bool:
        return now - self._answered_at > self._lease_s * 2 / 3

    def start(self) -> None:
        """Start the thread."""
        self._contact_since = self._answered_at = time.monotonic()
        threading.Thread(target=self._run, name="sagastream-lease", daemon=True).start()

    def close(self) -> None:
        """Let the thread end when it has no claim any more, or with the process."""
        self._closing.set()

    def keep(self, claim: Leased) -> None:
        """Renew a claim's lease from now on."""
        self._claims[claim.token] = claim

    def drop(self, token: str) -> None:
        """Stop renewing a claim's lease."""
        self._claims.pop(token, None)

    def give_back(self, claim: Leased) -> None:
        """Give a delivery back from the thread, as soon as the server answers.

        After a lease it stops trying: by then the lease has lapsed.
        """
        self._returned[claim.token] = (claim, time.monotonic() + self._lease_s)
        self.drop(claim.token)
        self._has_returned.set()

    def _run(self) -> None:
        connection = SyncConnection(
            self._servers, answer_timeout_s=self._lease_s + 3, connect_timeout_s=self._lease_s
        )
        with connection:
            while not self._closing.is_set() or self._claims or self._returned:
                self._has_returned.clear()
                try:
                    self._give_all_back(connection)
                    # Renew first, then wait: even if each connection breaks while it waits, the
                    # next one renews.
                    self._renew(connection)
                    now = time.monotonic()
                    if self._is_gap(now):
                        # No lease could be renewed in the gap: count the contact from its end.
                        self._contact_since = now
                    self._answered_at = now
                    if self._closing.is_set():
                        # Only threads are left; the end of each is a claim to give back.
                        self._has_returned.wait(self._lease_s / 3)
                    else:
                        connection.call("BLPOP", self.wakeup_list, self._lease_s / 3)
                except SagastreamError as error:
                    logger.debug("cannot renew leases: %s", error)
                    time.sleep(min(0.1, self._lease_s / 10))  # a server that is away has no event

    def _give_all_back(self, connection: SyncConnection) -> None:
        for token, (claim, until) in list(self._returned.items()):
            if time.monotonic() < until:
                command = release_command(
                    (claim.record, claim.stream, token, claim.entry_id),
                    group=self._group,
                    consumer=self._consumer,
                    idle_ms=claim.idle_ms,
                )
                with contextlib.suppress(UnknownLayout):  # a newer release has it
                    self._call(connection, command)
            del self._returned[token]

    def _renew(self, connection: SyncConnection) -> None:
        claims = [(claim, claim.lease_token) for claim in list(self._claims.values())]
        command = renew_command(
            [(claim.record, claim.stream, token, claim.entry_id) for claim, token in claims],
            lease_ms=round(self._lease_s * 1000),
            group=self._group,
            consumer=self._consumer,
        )
        answers = self._call(connection, command)
        for (claim, token), word in zip(claims, answers, strict=True):
            if claim.lease_token != token:
                continue  # it has begun meanwhile
            if word == b"0":
                self.drop(claim.token)
                claim.on_lost()
            elif word == b"c":
                claim.on_cancel()

    @staticmethod
    def _call(connection: SyncConnection, command: tuple[Any, ...]) -> Any:
        try:
            return connection.call(*command)
        except ServerError as error:
            if "Function not found" not in error.message:
                raise
            with contextlib.suppress(ServerError):
                connection.call("FUNCTION", "LOAD", SOURCE)
            return connection.call(*command)
