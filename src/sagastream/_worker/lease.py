"""Renew leases from a thread with its own connection.

So a lease is renewed even while a handler blocks the event loop. The thread reports a lease that
the server no longer grants, and a request that was cancelled, to the event loop, which cancels
the handler.
"""

import contextlib
import logging
import threading
import time
from typing import Any, Protocol

from sagastream._functions.library import SOURCE
from sagastream._functions.requests import renew_command
from sagastream._redis.sync import SyncConnection
from sagastream.errors import SagastreamError, ServerError

logger = logging.getLogger(__name__)


class Leased(Protocol):
    """A claim whose lease is renewed.

    Attributes:
        record: The key of the request's record.
        stream: The key of the command stream.
        entry_id: The command's entry.
        token: The claim's token.
    """

    record: str
    stream: str
    entry_id: str
    token: str

    def on_lost(self) -> None:
        """Called once, from the thread, when the server no longer grants the lease."""

    def on_cancel(self) -> None:
        """Called from the thread, perhaps several times, when the request is to be cancelled."""


class LeaseKeeper:
    """Renews the leases of one listener every third of a lease.

    Args:
        url: The server.
        wakeup_list: The key of a list; a push to it makes the thread check its claims now.
        group: The consumer group.
        consumer: The listener.
        lease_s: How long a lease is, in seconds.
    """

    def __init__(
        self, url: str, *, wakeup_list: str, group: str, consumer: str, lease_s: float
    ) -> None:
        self._url = url
        self._wakeup_list = wakeup_list
        self._group = group
        self._consumer = consumer
        self._lease_s = lease_s
        self._claims: dict[str, Leased] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
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
        self._thread = threading.Thread(target=self._run, name="sagastream-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it does so within a third of a lease."""
        self._stopping.set()

    def keep(self, claim: Leased) -> None:
        """Renew a claim's lease from now on."""
        self._claims[claim.token] = claim

    def drop(self, token: str) -> None:
        """Stop renewing a claim's lease."""
        self._claims.pop(token, None)

    def _run(self) -> None:
        connection = SyncConnection(
            self._url, answer_timeout_s=self._lease_s + 3, connect_timeout_s=self._lease_s
        )
        with connection:
            while not self._stopping.is_set():
                try:
                    # Renew first, then wait: even if each connection breaks while it waits, the
                    # next one renews.
                    self._renew(connection)
                    now = time.monotonic()
                    if self._is_gap(now):
                        # No lease could be renewed in the gap: count the contact from its end.
                        self._contact_since = now
                    self._answered_at = now
                    connection.call("BLPOP", self._wakeup_list, self._lease_s / 3)
                except SagastreamError as error:
                    logger.debug("cannot renew leases: %s", error)
                    self._stopping.wait(min(0.1, self._lease_s / 10))

    def _renew(self, connection: SyncConnection) -> None:
        claims = list(self._claims.values())  # atomic: another thread may change `_claims`
        command = renew_command(
            [(claim.record, claim.stream, claim.token, claim.entry_id) for claim in claims],
            lease_ms=round(self._lease_s * 1000),
            group=self._group,
            consumer=self._consumer,
        )
        try:
            answer: Any = connection.call(*command)
        except ServerError as error:
            if "Function not found" not in error.message:
                raise
            with contextlib.suppress(ServerError):
                connection.call("FUNCTION", "LOAD", SOURCE)
            answer = connection.call(*command)
        for claim, word in zip(claims, answer, strict=True):
            if word == b"0":
                self.drop(claim.token)
                claim.on_lost()
            elif word == b"c":
                claim.on_cancel()
