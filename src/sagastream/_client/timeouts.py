"""What is known of a request that nobody answered: silence gets a name."""

from sagastream._redis.connection import Connection
from sagastream.errors import NoHandlers, ReplyTimeout, SagastreamError

_FIELDS = ("status", "owner", "epoch", "lease_until", "timestamp", "stream", "event_type", "seq")


async def named(connection: Connection, prefix: str, silence: ReplyTimeout) -> ReplyTimeout:
    """The same timeout with what the server knows, as `NoHandlers` if nobody is there.

    Args:
        connection: Where the record is.
        prefix: The namespace's, before every key.
        silence: The timeout as it was met.
    """
    told = (silence.request_id, silence.timeout, silence.last_stage)
    try:
        stored = await connection.call("HMGET", f"{prefix}request:{silence.request_id}", *_FIELDS)
        now_ms = int((await connection.call("TIME"))[0]) * 1000
        if stored[5] is None:
            return ReplyTimeout(*told, "the server has no record of it")
        status, owner, epoch, lease_until, emitted, stream, event_type, seq = (
            value.decode() if value else "" for value in stored
        )
        age = f"emitted {(now_ms - int(emitted)) / 1000:.0f} s ago"
        if status == "running":
            left_ms = int(lease_until or "0") - now_ms
            told = (*told[:2], told[2] or ("progress" if seq not in {"", "0"} else "start"))
            lease = "current" if left_ms > 0 else f"lapsed {-left_ms / 1000:.0f} s ago"
            return ReplyTimeout(
                *told, f"{age}, held by {owner} in epoch {epoch}, its lease {lease}"
            )
        name = stream.removeprefix(prefix)
        listeners = f"{prefix}listeners:{name}"
        members = await connection.call("ZRANGEBYSCORE", listeners, now_ms, "+inf")
    except SagastreamError:
        return silence
    if event_type in {member.decode().partition("\n")[0] for member in members}:
        return ReplyTimeout(*told, f"{age}, not begun")
    return NoHandlers(*told, f"{age}, not begun: no live listener handles {event_type} on {name}")
