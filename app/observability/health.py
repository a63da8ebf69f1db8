"""Health probes of a process: `/healthz`, `/readyz` and `/metrics`, served from a thread.

`/healthz` is 200 while the event loop runs, even if the server is down: restarting a process
does not repair a server. `/readyz` is 200 while the server answers and the process's
streams are read, else 503 with the reasons; it warns of a server that is nearly full.
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
from app.observability.doctor import Check, check_readiness
from sagastream import SagastreamError

_HEARTBEAT_S = 0.5
_BLOCKED_S = 5.0


class PortTaken(SagastreamError):
    """The port of the health probes is in use."""


class LoopHeartbeat:
    """Records when the event loop last ran."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def run(self) -> None:
        """Record a heartbeat at intervals until cancelled."""
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(_HEARTBEAT_S)

    @property
    def age_s(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._last


@asynccontextmanager
async def serve_probes(settings: Settings, streams: Sequence[str]) -> AsyncIterator[LoopHeartbeat]:
    """Serve health probes while the context is open, if HTTP_PORT is set.

    Args:
        settings: The address of the probes, and the server to check.
        streams: Command streams that listeners must read for this process to be ready.

    Raises:
        PortTaken: Another process listens on the port.
    """
    heartbeat = LoopHeartbeat()
    if not settings.http_port:
        yield heartbeat
        return
    server = start_probe_server(settings, streams, heartbeat)
    beating = asyncio.create_task(heartbeat.run())
    try:
        yield heartbeat
    finally:
        beating.cancel()
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _facts(check: Check) -> dict[str, str]:
    return {"name": check.name, "detail": check.detail, "mend": check.mend}


def start_probe_server(
    settings: Settings, streams: Sequence[str], heartbeat: LoopHeartbeat
) -> ThreadingHTTPServer:
    """Serve health probes from a thread until the returned server is shut down.

    Raises:
        PortTaken: Another process listens on the port.
    """

    class Probe(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                age_s = heartbeat.age_s
                self._send_status(age_s < _BLOCKED_S, {"loop_age_s": round(age_s, 3)})
            elif path == "/readyz":
                # This thread has no event loop, and the process's own may be blocked.
                checks = asyncio.run(check_readiness(settings, streams))
                reasons = [_facts(check) for check in checks if not check.ok]
                warnings = [_facts(check) for check in checks if check.ok and check.mend]
                facts = {"reasons": reasons} | ({"warnings": warnings} if warnings else {})
                self._send_status(not reasons, facts)
            elif path == "/metrics":
                import prometheus_client  # noqa: PLC0415 - most processes serve no metrics

                content_type = prometheus_client.CONTENT_TYPE_LATEST
                self._send(200, content_type, prometheus_client.generate_latest())
            else:
                self._send(404, "text/plain", b"known: /healthz, /readyz, /metrics\n")

        def log_message(self, *_: Any) -> None:
            """Log nothing: probes come every few seconds."""

        def _send_status(self, ok: bool, facts: dict[str, Any]) -> None:
            body = {"status": "ok" if ok else "unavailable", **facts}
            self._send(200 if ok else 503, "application/json", json.dumps(body).encode())

        def _send(self, code: int, content_type: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    try:
        server = ThreadingHTTPServer((settings.http_host, settings.http_port), Probe)
    except OSError as error:
        address = f"{settings.http_host}:{settings.http_port}"
        raise PortTaken(f"cannot listen on {address} ({error}); set HTTP_PORT") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
