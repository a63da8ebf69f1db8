"""Limits of the web server that a client may meet, and the count of open event streams."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

from starlette.types import Scope

from app.config import Settings
from sagastream import SagastreamError
from sagastream.web.rate_limits import client_of


class LimitReached(SagastreamError):
    """This server accepts no more of something for now.

    Attributes:
        status: The HTTP status: 429 if it is because of this client, else 503.
        why: What there is too much of, and what to do.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return type(self), (self.status, self.why)


class TooManyMissions(LimitReached):
    """The maximum number of missions is open."""


class TooManyStreams(LimitReached):
    """The maximum number of event streams is open."""


class StreamLimits:
    """Counts the open event streams.

    Args:
        settings: The limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._in_all = settings.web_streams
        self._per_client = settings.web_streams_per_client
        self._per_mission = settings.web_streams_per_mission
        self._clients = Counter[str]()
        self._missions = Counter[str]()

    def open_here(self, scope: Scope) -> int:
        """How many streams this machine shows itself; 0 for a client on another machine."""
        client, server = (str((scope.get(name) or ("",))[0]) for name in ("client", "server"))
        with contextlib.suppress(ValueError):
            if client == server or ip_address(client).is_loopback:
                return self._clients[client_of(scope)]
        return 0

    @contextlib.contextmanager
    def take(self, client: str, saga_id: str) -> Iterator[None]:
        """Count a stream of a client while it is open.

        Raises:
            TooManyStreams: One of the limits is reached.
        """
        if self._clients[client] >= self._per_client:
            raise TooManyStreams(
                429, f"this client has {self._per_client} event streams open; close one"
            )
        if self._missions[saga_id] >= self._per_mission:
            raise TooManyStreams(
                503, f"{self._per_mission} event streams of mission {saga_id} are open; wait"
            )
        if self._clients.total() >= self._in_all:
            raise TooManyStreams(503, f"{self._in_all} event streams are open; wait until one ends")
        counts = ((self._clients, client), (self._missions, saga_id))
        for counter, name in counts:
            counter[name] += 1
        try:
            yield
        finally:
            for counter, name in counts:
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]
