"""A server with an append-only file for each test, and what must hold at the end of one."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from sagastream.testing import EmbeddedServer
from tests.faults.roles import STREAM


@pytest.fixture
def store(server_binary: str | None) -> Iterator[EmbeddedServer]:
    """A server whose data survive it."""
    with EmbeddedServer(aof=True, binary=server_binary) as running:
        yield running


def look(store: EmbeddedServer) -> "redis.Redis":
    """A plain client, for looking from outside."""
    return redis.Redis.from_url(store.url, decode_responses=True)


def check_request(store: EmbeddedServer, request_id: str, status: str = "completed") -> None:
    """What holds for every request, whatever died: one entry, one end, nothing pending."""
    with look(store) as client:
        record: dict[str, Any] = client.hgetall(f"request:{request_id}")
        assert record["status"] == status
        entries = [
            fields for _, fields in client.xrange(STREAM) if fields["request_id"] == request_id
        ]
        assert len(entries) == 1, "one entry a request"
        assert client.xpending(STREAM, "sagastream")["pending"] == 0
        for stream in record["reply_streams"].split("\n"):
            stages = [
                fields["status"]
                for _, fields in client.xrange(stream)
                if fields["request_id"] == request_id
            ]
            ends = [stage for stage in stages if stage in {"completed", "failed", "cancelled"}]
            if stages:
                assert ends == [status], "one terminal reply on each reply stream"
                assert client.pttl(stream) > 0

        assert client.pttl(f"request:{request_id}") > 0
