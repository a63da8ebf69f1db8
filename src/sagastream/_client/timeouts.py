"""Diagnose a timeout: what the server knows about a request that got no reply."""

import asyncio

from sagastream._client.session import Session
from sagastream._functions.answers import Expired
from sagastream._redis.deadline import Deadline
from sagastream.errors import NoHandlers, ReplyTimeout, SagastreamError

_FIELDS = (
    "status",
    "consumer",
    "attempts",
    "lease_until",
    "timestamp",
    "stream",
    "event_type",
    "seq",
    "due",
)


async def explain_timeout(
    session: Session, timeout: ReplyTimeout, deadline: Deadline
) -> ReplyTimeout:
    """Add to a timeout what the server knows of the request.

    Args:
        session: The server.
        timeout: The timeout as it was raised.
        deadline: When to stop.

    Returns:
        The same timeout with its diagnosis; `NoHandlers` if no live listener has the event
        type. The unchanged timeout if the server does not answer in time.
    """
    facts = (timeout.request_id, timeout.timeout, timeout.last_stage)
    options, connection = session.options, session.connection
    try:
        record = options.record_key(timeout.request_id)
        found, (now_s, _) = await asyncio.gather(
            session.requests.inspect(record, deadline=deadline),
            connection.call("TIME", deadline=deadline),
        )
        now_ms = int(now_s) * 1000
        if found is None or isinstance(found, Expired):
            return ReplyTimeout(*facts, "the server has no record of it")
        status, consumer, attempts, lease_until, emitted, stream, event_type, seq, due = (
            found[name] for name in _FIELDS
        )
        age = f"emitted {max(0, now_ms - int(emitted)) // 1000} s ago"
        if status == "running":
            left_ms = int(lease_until) - now_ms
            last_stage = facts[2] or ("progress" if seq != "0" else "start")
            held = f"held by {consumer}, attempt {attempts}, its lease current"
            if lease_until == "0":
                held = f"released by {consumer}, attempt {attempts}, not claimed again"
            elif left_ms <= 0:
                held = f"held by {consumer}, attempt {attempts}, its lease lapsed {-left_ms // 1000} s ago"
            return ReplyTimeout(*facts[:2], last_stage, f"{age}, {held}")
        if due != "0":
            wait_s = max(0, int(due) - now_ms) // 1000
            return ReplyTimeout(*facts, f"{age}, attempt {int(attempts) + 1} is due in {wait_s} s")
        name = stream.removeprefix(options.prefix)
        listeners = options.key(f"listeners:{name}")
        members = await connection.call(
            "ZRANGEBYSCORE", listeners, now_ms, "+inf", deadline=deadline
        )
    except SagastreamError:
        return timeout
    if event_type in {member.decode(errors="replace").partition("\n")[0] for member in members}:
        return ReplyTimeout(*facts, f"{age}, not begun")
    return NoHandlers(*facts, f"{age}, not begun: no live listener handles {event_type} on {name}")
