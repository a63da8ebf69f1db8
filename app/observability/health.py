"""`/healthz`, `/readyz` and `/metrics` of a process, from a thread beside its event loop.

`/healthz` is 200 while the loop ticks, whatever the server does: restarting a process does not
mend a server. `/readyz` is 200 while the server answers and the process's streams are read;
otherwise 503 with the reasons.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.config import Settings
from app.observability.doctor import ready
from sagastream import SagastreamError
from sagastream._redis.retrying import end_tasks

_TICK_S = 0.5
_LATE_S = 5.0


class PortTaken(SagastreamError):
    """The port for health and metrics cannot be listened on."""


class Pulse:
    """When the event loop was last seen to tick."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def beat(self) -> None:
        """Tick until cancelled."""
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(_TICK_S)

    @property
    def age_s(self) -> float:
        """Seconds since the last tick."""
        return time.monotonic() - self._last


@asynccontextmanager
async def watched(settings: Settings, streams: Sequence[str]) -> AsyncIterator[Pulse]:
    """Answer probes for as long as the context, if there is a port for it.

    Args:
        settings: The port, and the server that is asked.
        streams: The command streams that must be read for this process to be ready.

    Raises:
        PortTaken: Somebody else listens there.
    """
    pulse = Pulse()
    if not settings.http_port:
        yield pulse
        return
    server = serve(settings, streams, pulse)
    beating = asyncio.create_task(pulse.beat())
    try:
        yield pulse
    finally:
        await end_tasks(beating)
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def serve(settings: Settings, streams: Sequence[str], pulse: Pulse) -> ThreadingHTTPServer:
    """Answer probes from a thread, until the server that this returns is shut down.

    Raises:
        PortTaken: Somebody else listens there.
    """

    class Probe(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                self._tell(pulse.age_s < _LATE_S, {"loop_age_s": round(pulse.age_s, 3)})
            elif path == "/readyz":
                checks = ready(settings, streams)
                reasons = [
                    {"name": check.name, "detail": check.detail, "mend": check.mend}
                    for check in checks
                    if not check.ok
                ]
                self._tell(not reasons, {"reasons": reasons})
            elif path == "/metrics":
                import prometheus_client  # noqa: PLC0415 - only who has a port needs it

                kind = prometheus_client.CONTENT_TYPE_LATEST
                self._answer(200, kind, prometheus_client.generate_latest())
            else:
                self._answer(404, "text/plain", b"known: /healthz, /readyz, /metrics\n")

        def log_message(self, *_: Any) -> None:
            """A probe is no event."""

        def _tell(self, good: bool, facts: dict[str, Any]) -> None:
            body = {"status": "ok" if good else "unavailable", **facts}
            self._answer(200 if good else 503, "application/json", json.dumps(body).encode())

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    try:
        server = ThreadingHTTPServer((settings.http_host, settings.http_port), Probe)
    except OSError as error:
        where = f"{settings.http_host}:{settings.http_port}"
        raise PortTaken(f"{where} cannot be listened on ({error}); set HTTP_PORT") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
