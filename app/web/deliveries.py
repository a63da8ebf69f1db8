"""What is under way for a mission: its open requests and who has them, and its dead letters."""

import time
from typing import Any

from app.config import get_settings
from app.missions.mission_saga import mission_saga
from app.redis_utils import get_bus
from sagastream.saga.journal import Journal

_FIELDS = ("status", "owner", "epoch", "lease_until", "stream")
_LETTERS = 1000  # of a stream are looked through, the newest first


async def deliveries_of(journal: Journal) -> dict[str, list[dict[str, Any]]]:
    """The open requests of a mission, and the commands of it that were given up.

    Returns:
        `open`: step, request_id, stream, age_s, and who holds it in which epoch, with the seconds
        that its lease still runs. `dead`: stream, entry id, event type, reason.
    """
    call, key = get_bus().command, get_bus().key
    under_way = []
    for entry in journal.entries:
        if entry.status != "intended":
            continue
        stored = await call("HMGET", key(f"request:{entry.request_id}"), *_FIELDS)
        record = {
            name: value.decode() if value else ""
            for name, value in zip(_FIELDS, stored, strict=True)
        }
        lease_ms = int(record["lease_until"] or "0") - time.time() * 1000
        under_way.append(
            {
                "step": entry.step,
                "direction": entry.direction,
                "request_id": entry.request_id,
                "stream": record["stream"].removeprefix(key("")),
                "age_s": time.time() - entry.started,
                "status": record["status"] or "not sent yet",
                "owner": record["owner"],
                "epoch": record["epoch"],
                "lease_s": lease_ms / 1000 if record["owner"] else None,
            }
        )
    dead = []
    for stream in {step.stream for step in mission_saga(get_settings()).steps}:
        letters = await call("XREVRANGE", key(f"{stream}:dead"), "+", "-", "COUNT", _LETTERS)
        dead += [
            {
                "stream": stream,
                "id": letter_id.decode(),
                "event_type": fields.get(b"event_type", b"?").decode(errors="replace"),
                "reason": fields.get(b"dead_reason", b"").decode(errors="replace"),
            }
            for letter_id, fields in letters
            if fields.get(b"saga_id") == journal.saga_id.encode()
        ]
    return {"open": under_way, "dead": dead}
