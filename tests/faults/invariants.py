"""What must hold for a request at its end, whatever was killed; counts what does not."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from sagastream.message import TERMINAL_STAGES
from sagastream.testing import EmbeddedServer
from tests.plain_client import GROUP, connect
from tests.polling import NotInTime, eventually_sync
from tests.records import read_record

STREAM = "work:commands"
_RANK = {"start": 0, "progress": 1, "completed": 2, "failed": 2, "cancelled": 2}
_ACK_S = 10.0
_NO_TTL = -1


@dataclass
class Violations:
    """How often each guarantee to a request was broken, and a message for each case.

    Attributes:
        lost: Requests without a terminal stage, a reply or their effect.
        doubled: Entries, terminal stages, starts and effects beyond the first one.
        out_of_order: Stages that come after a later one.
        messages: What was wrong.
    """

    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    messages: list[str] = field(default_factory=list)

    def add_lost(self, message: str) -> None:
        """Count something that is missing."""
        self.lost += 1
        self.messages.append(message)

    def add_doubled(self, surplus: int, what: str) -> None:
        """Count what exists more often than it should; nothing if `surplus` is not positive."""
        if surplus > 0:
            self.doubled += surplus
            self.messages.append(f"{what}: {surplus} too many")

    def require(self, holds: bool, otherwise: str) -> None:
        """Add a message if another condition does not hold."""
        if not holds:
            self.messages.append(otherwise)


def check_requests(
    store: EmbeddedServer, request_ids: Sequence[str], status: str, *, entries: int | None
) -> Violations:
    """Check requests: one entry, one end on each reply stream, one effect, nothing pending.

    It reads record and streams itself, so that a fault of the library's readers hides nothing.

    Args:
        store: The server.
        request_ids: The requests.
        status: The terminal stage that each must have.
        entries: The number of entries of each request in the stream; None for any number.
    """
    violations = Violations()
    with connect(store.url) as client:
        entries_of = defaultdict[str, list[dict[str, str]]](list)
        for _, fields in client.xrange(STREAM):
            entries_of[fields.get("request_id", "")].append(fields)
        stages = _Stages(client)
        for request_id in request_ids:
            own = entries_of[request_id]
            if entries is not None:
                violations.add_doubled(len(own) - entries, f"{request_id}: entries")
                violations.require(len(own) >= entries, f"{request_id}: its entry is gone")
            streams = {fields["reply_stream"] for fields in own if fields.get("reply_stream")}
            _check_request(violations, stages, request_id, status, streams)
        try:
            _wait_for_acks(client)
        except NotInTime as error:
            violations.require(False, str(error))
    return violations


class _Stages:
    """The stages of each request in a stream; each stream is read once."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._read: dict[str, dict[str, list[tuple[int, str]]]] = {}

    def of(self, request_id: str, stream: str) -> list[tuple[int, str]]:
        """Epoch and status of each, in order."""
        if stream not in self._read:
            found = self._read[stream] = defaultdict(list)
            for _, fields in self.client.xrange(stream):
                found[fields["request_id"]].append((int(fields["epoch"]), fields["status"]))
        return self._read[stream].get(request_id, [])


def _check_request(
    violations: Violations, found: _Stages, request_id: str, status: str, streams: set[str]
) -> None:
    client = found.client
    record = read_record(client, request_id)
    if record.get("status") not in TERMINAL_STAGES:
        violations.add_lost(f"{request_id} has not ended: {record.get('status')}")
        return
    violations.require(record["status"] == status, f"{request_id} is {record['status']}")
    effects = int(client.hget("effects", request_id) or 0)
    violations.add_doubled(effects - int(status == "completed"), f"{request_id}: effects")
    if status == "completed" and not effects:
        violations.add_lost(f"{request_id} has no effect")
    own = f"request:{request_id}:stages"
    if client.exists(own):
        streams = streams | {own}
    for stream in streams:
        stages = found.of(request_id, stream)
        # A requester deletes its inbox when it ends; the log of the request's stages stays.
        if stages or stream == own:
            _check_stages(violations, stages, status, stream)
            violations.require(client.pttl(stream) != _NO_TTL, f"{stream} has no TTL")
    violations.require(client.pttl(f"request:{request_id}") > 0, f"{request_id} has no TTL")


def _check_stages(
    violations: Violations, stages: list[tuple[int, str]], status: str, stream: str
) -> None:
    statuses = [stage for _, stage in stages]
    ends = sum(stage in TERMINAL_STAGES for stage in statuses)
    if not ends:
        violations.add_lost(f"{stream} has no terminal stage")
    violations.add_doubled(ends - 1, f"{stream}: terminal stages")
    starts = Counter(epoch for epoch, stage in stages if stage == "start")
    violations.add_doubled(sum(starts.values()) - len(starts), f"{stream}: starts of one epoch")
    order = [(epoch, _RANK[stage]) for epoch, stage in stages]
    disorder = sum(later < sooner for sooner, later in itertools.pairwise(order))
    disorder += sum(stage in TERMINAL_STAGES for stage in statuses[:-1])
    if disorder:
        violations.out_of_order += disorder
        violations.messages.append(f"{stream} is out of order: {stages}")
    if ends:
        violations.require(statuses[-1] == status, f"{stream} ends as {statuses[-1]}")


def _wait_for_acks(client: "redis.Redis") -> None:
    """Wait until all deliveries are acked: the second entry of a request is, by its reader."""

    def is_nothing_pending() -> bool:
        # A killed server may have lost the group: nothing is pending, the next read creates it.
        groups: Any = client.xinfo_groups(STREAM) if client.exists(STREAM) else []
        return not any(group["pending"] for group in groups if group["name"] == GROUP)

    eventually_sync(is_nothing_pending, within_s=_ACK_S, why="all deliveries are acknowledged")
