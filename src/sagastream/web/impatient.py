"""A connection that is closed if its client does not send a whole request, or take an answer, in time.

uvicorn waits without limit for the rest of a request, and for a client that reads nothing of its
answer, so a few such clients would keep all of its connections.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# How long a client may take to send the headers of a request, and then its body, in seconds.
REQUEST_S = 10.0
# How long a client may take to read what is buffered for it, in seconds.
READING_S = 30.0


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 with limits on the time that a request takes to arrive, and an answer to be read."""

    _timer: asyncio.TimerHandle | None = None
    _reading_timer: asyncio.TimerHandle | None = None

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
        self._stop_reading_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The buffer of the connection is full: the client must read."""
        super().pause_writing()
        self._stop_reading_timer()
        self._reading_timer = self.loop.call_later(READING_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._stop_reading_timer()

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

    def _stop_reading_timer(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None

    def _disconnect(self) -> None:
        self._timer = None
        self.transport.close()
