"""Keeping leases from a thread with a connection of its own.

A handler may block the event loop for as long as it likes: its lease is renewed from
here. A lease that the server no longer grants is reported to the loop, which cancels
the handler; so is a request that somebody wants cancelled.
"""

import contextlib
import logging
import threading
import time
from typing import Any, Protocol

from sagastream._functions.stubs import LIBRARY, SOURCE
from sagastream._redis.sync import SyncConnection
from sagastream.errors import SagastreamError, ServerError

logger = logging.getLogger(__name__)


class Held(Protocol):
    """A claim to keep.

    Attributes:
        record: The key of the request's record.
        stream: The key of its stream.
        entry_id: Its entry.
        token: The claim's.
    """

    record: str
    stream: str
    entry_id: str
    token: str

    def on_lost(self) -> None:
        """Called once, from the thread, when the server no longer grants the lease."""

    def on_cancel(self) -> None:
        """Called from the thread, perhaps often, when the request is to be cancelled."""


class LeaseKeeper:
    """Renews all claims of one listener at a third of their lease.

    Args:
        url: The server.
        wakeup_list: The key of a list; whoever pushes to it has the claims looked at now.
        group: The consumer group.
        owner: The listener.
        lease_s: How long a lease is.
    """

    def __init__(
        self, url: str, *, wakeup_list: str, group: str, owner: str, lease_s: float
    ) -> None:
        self._url = url
        self._wakeup_list = wakeup_list
        self._group = group
        self._owner = owner
        self._lease_s = lease_s
        self._held: dict[str, Held] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._contact_since = self._answered = time.monotonic()

    @property
    def contact_s(self) -> float:
        """For how long the server has kept our leases without a gap, 0 while it does not."""
        now = time.monotonic()
        return 0.0 if self._is_gap(now) else now - self._contact_since

    def _is_gap(self, now: float) -> bool:
        return now - self._answered > self._lease_s * 2 / 3

    def start(self) -> None:
        """Start the thread."""
        self._contact_since = self._answered = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="sagastream-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it does so within a third of a lease."""
        self._stopping.set()

    def keep(self, held: Held) -> None:
        """Renew a claim from now on."""
        self._held[held.token] = held

    def drop(self, token: str) -> None:
        """Renew a claim no longer."""
        self._held.pop(token, None)

    def _run(self) -> None:
        connection = SyncConnection(
            self._url,
            answer_timeout_s=self._lease_s + 3,
            connect_timeout_s=self._lease_s,
        )
        with connection:
            while not self._stopping.is_set():
                try:
                    # Renewed first and waited then: a connection that breaks in the wait,
                    # however often, does not keep the next one from renewing.
                    self._renew(connection)
                    now = time.monotonic()
                    if self._is_gap(now):
                        # A server that was away lapses nobody: count from its return.
                        self._contact_since = now
                    self._answered = now
                    connection.call("BLPOP", self._wakeup_list, self._lease_s / 3)
                except SagastreamError as error:
                    logger.debug("leases not renewed: %s", error)
                    self._stopping.wait(min(0.1, self._lease_s / 10))

    def _renew(self, connection: SyncConnection) -> None:
        held = list(self._held.values())  # in one step: no other thread comes between
        keys = [part for claim in held for part in (claim.record, claim.stream)]
        claims = [part for claim in held for part in (claim.token, claim.entry_id)]
        call: tuple[Any, ...] = (
            *("FCALL", f"{LIBRARY}_renew", len(keys), *keys),
            *(round(self._lease_s * 1000), self._group, self._owner, *claims),
        )
        try:
            answer: Any = connection.call(*call)
        except ServerError as error:
            if "Function not found" not in str(error):
                raise
            with contextlib.suppress(ServerError):
                connection.call("FUNCTION", "LOAD", SOURCE)
            answer = connection.call(*call)
        for claim, word in zip(held, answer, strict=True):
            if word == b"0":
                self.drop(claim.token)
                claim.on_lost()
            elif word == b"c":
                claim.on_cancel()
