"""A connection that is closed if its client does not send a whole request in time.

uvicorn waits without limit for the rest of a request, so a few clients that send half of one
would keep all of its connections.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# How long a client may take to send the headers of a request, and then its body, in seconds.
REQUEST_S = 10.0


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 with a limit on the time that a request takes to arrive."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected: it must send a request soon."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Something has arrived; the time of a request counts from its first byte."""
        if self._timer is None and not self._is_answering:
            self._wait()
        super().data_received(data)
        if self._is_answering:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        """Whether a whole request has arrived that is not yet answered."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _wait(self) -> None:
        self._timer = self.loop.call_later(REQUEST_S, self._disconnect)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _disconnect(self) -> None:
        self._timer = None
        self.transport.close()
