import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.parser import text_string_to_metric_families

from app.config import Settings, get_settings
from app.observability.doctor import check_readiness
from app.observability.health import LoopHeartbeat, PortTaken, serve_probes, start_probe_server
from sagastream import Bus, Command, Progress, multi_stage_reply
from sagastream.status import stream_status
from sagastream.testing import EmbeddedServer
from tests.collector import free_port
from tests.listeners import listening
from tests.polling import eventually

STREAM = "probe:commands"


@multi_stage_reply(stream=STREAM, event_type="probe:it")
async def probe_it(_command: Command, _progress: Progress) -> None:
    """Do nothing."""


async def _get(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    await writer.drain()
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def _facts(port: int, path: str) -> tuple[int, dict[str, Any]]:
    code, body = await _get(port, path)
    return code, json.loads(body)


@pytest.fixture
async def probed(own_server: EmbeddedServer) -> AsyncIterator[tuple[EmbeddedServer, Settings]]:
    """A server that may be suspended, with a listener of one stream and health probes."""
    settings = Settings(redis_url=own_server.url, http_port=free_port())
    async with (
        Bus(own_server.url) as bus,
        listening(bus, [probe_it]),
        serve_probes(settings, [STREAM]),
    ):

        async def is_announced() -> bool:
            return bool((await stream_status(bus, STREAM)).event_types)

        await eventually(is_announced, within_s=10, why="the listener announced its event type")
        yield own_server, settings


async def test_an_unresponsive_server_is_reported_within_3_s(
    probed: tuple[EmbeddedServer, Settings],
) -> None:
    """`/readyz` turns 503 with the reason, and back; `/healthz` stays 200."""
    server, settings = probed
    port = settings.http_port
    assert (await _facts(port, "/readyz")) == (200, {"status": "ok", "reasons": []})
    os.kill(server.pid, signal.SIGSTOP)
    try:
        frozen = time.monotonic()
        code, facts = await _facts(port, "/readyz")
        assert time.monotonic() - frozen < 3
        assert code == 503
        assert [reason["name"] for reason in facts["reasons"]] == ["server"]
        assert (await _facts(port, "/healthz"))[0] == 200
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert (await _facts(port, "/readyz"))[0] == 200


async def test_readiness_names_streams_without_listener(
    probed: tuple[EmbeddedServer, Settings],
) -> None:
    """Group and listener are two reasons, each with a fix."""
    _, settings = probed
    checks = await check_readiness(settings, [STREAM, "other:commands"])
    bad = [check for check in checks if not check.ok]
    assert [check.name for check in bad] == ["group other:commands", "listener other:commands"]
    assert all(check.mend for check in bad)


async def test_a_server_that_is_nearly_full_is_a_warning_and_a_full_one_a_fault(
    probed: tuple[EmbeddedServer, Settings],
) -> None:
    """Both name what holds the memory and what to do; the second is not ready."""
    server, settings = probed
    async with Bus(server.url) as bus:
        for number in range(100):
            await bus.emit_command(STREAM, event_type="probe:else", payload={"n": number})
        used = int((await bus.command("INFO", "memory"))["used_memory"])
        await bus.command("CONFIG", "SET", "maxmemory", used * 10 // 9)
        code, facts = await _facts(settings.http_port, "/readyz")
        assert (code, facts["status"]) == (200, "ok")
        (warning,) = facts["warnings"]
        # What the server needs for itself changes by a tenth of so small a memory.
        assert re.search(r"MB \([89]\d%\)", warning["detail"])
        assert "requests" in warning["detail"]
        assert "sagastream purge" in warning["mend"]
        await bus.command("CONFIG", "SET", "maxmemory", used * 9 // 10)
        code, facts = await _facts(settings.http_port, "/readyz")
        assert code == 503
        (reason,) = facts["reasons"]
        assert "it is full, and takes no new commands" in reason["detail"]


@pytest.mark.blocking
def test_a_blocked_event_loop_is_unhealthy(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/healthz` reports a blocked event loop with 503, although the server answers."""
    settings = Settings(redis_url=server.url, http_port=free_port())
    heartbeat = LoopHeartbeat()
    probes = start_probe_server(settings, (), heartbeat)
    try:
        assert asyncio.run(_get(settings.http_port, "/healthz"))[0] == 200
        monkeypatch.setattr(heartbeat, "_last", time.monotonic() - 60)
        assert asyncio.run(_get(settings.http_port, "/healthz"))[0] == 503
        assert asyncio.run(_get(settings.http_port, "/else"))[0] == 404
    finally:
        probes.shutdown()
        probes.server_close()


async def test_metrics_are_in_prometheus_format(probed: tuple[EmbeddedServer, Settings]) -> None:
    """`/metrics` parses in the format of Prometheus and has the counted messages by stream."""
    provider = MeterProvider([PrometheusMetricReader()])
    counter = provider.get_meter("test").create_counter("messaging.client.sent.messages")
    counter.add(3, {"messaging.destination.name": STREAM})
    try:
        code, body = await _get(probed[1].http_port, "/metrics")
    finally:
        provider.shutdown()
    assert code == 200
    samples = [
        (sample.name, sample.labels["messaging_destination_name"], sample.value)
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if "messaging_destination_name" in sample.labels
    ]
    assert samples == [("messaging_client_sent_messages_total", STREAM, 3)]


async def test_a_taken_port_is_named(probed: tuple[EmbeddedServer, Settings]) -> None:
    """The error names the port and the variable that changes it."""
    with pytest.raises(PortTaken, match=f":{probed[1].http_port} .*HTTP_PORT"):
        async with serve_probes(probed[1], [STREAM]):
            pass


async def test_without_a_port_nothing_listens(server: EmbeddedServer) -> None:
    """Without HTTP_PORT there are no probes."""
    async with serve_probes(Settings(redis_url=server.url), []) as heartbeat:
        assert heartbeat.age_s >= 0
    assert get_settings().http_port == 0
