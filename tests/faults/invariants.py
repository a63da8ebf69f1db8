"""What must hold for a request at its end, whatever died on the way, as counts of what does not."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from sagastream.testing import EmbeddedServer
from tests.polling import comes_true

STREAM = "work:commands"
GROUP = "sagastream"
_TERMINAL = {"completed", "failed", "cancelled"}
_RANK = {"start": 0, "progress": 1, "completed": 2, "failed": 2, "cancelled": 2}
_ACK_S = 10.0
_FOR_EVER = -1


@dataclass
class Verdict:
    """How often which promise to one request was broken, and in which words."""

    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    wrong: list[str] = field(default_factory=list)

    def lose(self, what: str) -> None:
        """A request misses something."""
        self.lost += 1
        self.wrong.append(what)

    def double(self, surplus: int, what: str) -> None:
        """Something is there too often."""
        if surplus > 0:
            self.doubled += surplus
            self.wrong.append(f"{what} {surplus} too often")

    def require(self, holds: bool, otherwise: str) -> None:
        """Something else must hold."""
        if not holds:
            self.wrong.append(otherwise)


def look(store: EmbeddedServer) -> "redis.Redis":
    """A plain client, for looking from outside."""
    return redis.Redis.from_url(store.url, decode_responses=True)


def verdict(
    store: EmbeddedServer, request_ids: Sequence[str], status: str, *, entries: int | None
) -> Verdict:
    """Judge requests: one entry, one end on each reply stream, one effect, nothing pending."""
    seen = Verdict()
    with look(store) as client:
        found = Counter(fields.get("request_id") for _, fields in client.xrange(STREAM))
        for request_id in request_ids:
            if entries is not None:
                seen.double(found[request_id] - entries, f"{request_id}: its entry is there")
                seen.require(found[request_id] >= entries, f"{request_id}: its entry is gone")
            _judge(seen, client, request_id, status)
        seen.require(_nothing_pending(client), "an entry stays pending")
    return seen


def _judge(seen: Verdict, client: Any, request_id: str, status: str) -> None:
    record: dict[str, Any] = client.hgetall(f"request:{request_id}")
    if record.get("status") not in _TERMINAL:
        seen.lose(f"{request_id} has not ended: {record.get('status')}")
        return
    seen.require(record["status"] == status, f"{request_id} is {record['status']}")
    effects = int(client.hget("effects", request_id) or 0)
    seen.double(effects - int(status == "completed"), f"{request_id}: its effect was done")
    if status == "completed" and not effects:
        seen.lose(f"{request_id}: its effect was not done")
    own = f"request:{request_id}:stages"
    streams = record["reply_streams"], record.get("end_streams", "")
    for stream in "\n".join(filter(None, streams)).split("\n"):
        stages = [
            (int(fields["epoch"]), fields["status"])
            for _, fields in client.xrange(stream)
            if fields["request_id"] == request_id
        ]
        # A requester that ended took its inbox with it; the request's own log stays.
        if stages or stream == own:
            _judge_stages(seen, stages, status, stream)
            seen.require(client.pttl(stream) != _FOR_EVER, f"{stream} has no TTL")
    seen.require(client.pttl(f"request:{request_id}") > 0, f"{request_id} has no TTL")


def _judge_stages(seen: Verdict, stages: list[tuple[int, str]], status: str, stream: str) -> None:
    statuses = [stage for _, stage in stages]
    ends = sum(stage in _TERMINAL for stage in statuses)
    if not ends:
        seen.lose(f"{stream} has no end")
    seen.double(ends - 1, f"{stream} has an end")
    starts = Counter(epoch for epoch, stage in stages if stage == "start")
    seen.double(sum(starts.values()) - len(starts), f"{stream} has a start of one epoch")
    places = [(epoch, _RANK[stage]) for epoch, stage in stages]
    disorder = sum(later < sooner for sooner, later in itertools.pairwise(places))
    disorder += sum(stage in _TERMINAL for stage in statuses[:-1])
    if disorder:
        seen.out_of_order += disorder
        seen.wrong.append(f"{stream} is out of order: {stages}")
    if ends:
        seen.require(statuses[-1] == status, f"{stream} ends as {statuses[-1]}")


def _nothing_pending(client: "redis.Redis") -> bool:
    """Whether all deliveries are acked: a second one of the request soon is, by who met it."""

    def is_so() -> bool:
        # A group that a killed server took back has nothing pending: it is made by the next read.
        groups = client.xinfo_groups(STREAM) if client.exists(STREAM) else []
        return not any(group["pending"] for group in groups if group["name"] == GROUP)

    return comes_true(is_so, within_s=_ACK_S)
