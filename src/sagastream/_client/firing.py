"""Write schedules to the server, and fire them: check, compute the due times, call the function."""

import asyncio
from dataclasses import dataclass

from sagastream._client.session import Session
from sagastream._codec.entries import SCHEMA_VERSION
from sagastream._codec.payload import encode_payload
from sagastream._codec.validation import check_name
from sagastream._functions.schedule_functions import FireAnswer, Found
from sagastream._schedules.due_times import Firing, fire_at, judge, next_due
from sagastream._schedules.schedule import (
    SCHEDULE_LAYOUT,
    Schedule,
    decode_schedule,
    encode_schedule,
)
from sagastream._telemetry import spans
from sagastream._telemetry.propagation import injected
from sagastream._telemetry.trace_context import trace_of


@dataclass(frozen=True, slots=True)
class PlannedFiring:
    """A schedule, and what to do with one of its due times.

    Attributes:
        schedule: The schedule.
        due_ms: The due time in milliseconds since the Unix epoch; None to fire it now.
        request_id: The id of its request.
        firing: Whether it is missed, and which due time follows.
    """

    schedule: Schedule
    due_ms: int | None
    request_id: str
    firing: Firing


def schedule_keys(session: Session, name: str, stream: str) -> tuple[str, str]:
    """The key of a schedule, and of the index of its stream."""
    return session.options.key(f"schedule:{name}"), schedules_of(session, stream)


def schedules_of(session: Session, stream: str) -> str:
    """The key of the index of a stream's schedules."""
    return session.options.key(f"{stream}:schedules")


async def server_ms(session: Session) -> int:
    """The server's time, in milliseconds since the Unix epoch."""
    seconds, micros = await session.connection.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def put_schedule(session: Session, schedule: Schedule, *, is_declared: bool) -> bool:
    """Write a schedule; returns whether it is new or has changed.

    Raises:
        InvalidMessage: It has no stream or no event type.
        UnknownLayout: A newer release wrote the schedule that is there.
        ServerUnavailable: The server did not answer.
    """
    check_name("stream", schedule.stream)
    check_name("event_type", schedule.event_type)
    encode_payload(schedule.payload, max_bytes=session.options.max_payload)
    due_ms, at_ms = await first_due(session, schedule)
    schedule_key, index = schedule_keys(session, schedule.name, schedule.stream)
    return await session.schedules.put(
        schedule_key,
        index,
        name=schedule.name,
        layout=SCHEDULE_LAYOUT,
        spec=encode_schedule(schedule),
        is_declared=is_declared,
        due_ms=due_ms,
        at_ms=at_ms,
    )


async def first_due(session: Session, schedule: Schedule) -> tuple[int | None, int | None]:
    """The next due time from now on, by the server's clock, and when it is fired."""
    due_ms = await asyncio.to_thread(next_due, schedule, await server_ms(session))
    return due_ms, None if due_ms is None else fire_at(schedule, due_ms)


def plan(spec: bytes, due_ms: int, now_ms: int) -> PlannedFiring:
    """What to do with a due time of a schedule; it may read the files of a time zone.

    Raises:
        InvalidMessage: The definition is malformed, or a newer release wrote it, or its cron
            expression needs the extra `schedule`.
    """
    schedule = decode_schedule(spec)
    return PlannedFiring(
        schedule, due_ms, schedule.request_id(due_ms), judge(schedule, due_ms, now_ms)
    )


async def fire(session: Session, planned: PlannedFiring, spec: str | bytes) -> FireAnswer:
    """Emit the command of a due time, or skip it, unless another process was faster.

    Args:
        session: The server.
        planned: The due time.
        spec: The definition as it was read.

    Raises:
        ServerRefused: The server takes no writes for now.
        ServerUnavailable: The server did not answer.
    """
    schedule, firing, request_id = planned.schedule, planned.firing, planned.request_id
    stream, options = session.options.key(schedule.stream), session.options
    schedule_key, index = schedule_keys(session, schedule.name, schedule.stream)
    fields = {
        "correlation_id": request_id,
        "request_id": request_id,
        "saga_id": "",
        "event_type": schedule.event_type,
    }
    payload = encode_payload(schedule.payload, max_bytes=options.max_payload)
    entry = (request_id, request_id, "", schedule.event_type, payload, "")
    next_ms = firing.next_ms
    with spans.sending(session.server, schedule.stream, fields) as span:
        answer = await session.schedules.fire(
            schedule_key,
            index,
            options.record_key(request_id),
            stream,
            (*entry, SCHEMA_VERSION, *trace_of(span)),
            name=schedule.name,
            spec=spec,
            due_ms=planned.due_ms,
            next_ms=next_ms,
            next_at_ms=None if next_ms is None else fire_at(schedule, next_ms),
            is_missed=firing.is_missed,
            overlap=schedule.overlap,
            turn="" if schedule.priority is None else schedule.priority.turn,
            context=injected(),
        )
        if answer.outcome == "fired":
            session.guard.note_counter(answer.counter)
            span.set_attribute("messaging.message.id", answer.detail)
    return answer


async def resume_schedule(session: Session, schedule: Schedule, spec: bytes) -> Found:
    """Let listeners take a paused schedule again, from its next due time on."""
    due_ms, at_ms = await first_due(session, schedule)
    return await session.schedules.resume(
        *schedule_keys(session, schedule.name, schedule.stream),
        name=schedule.name,
        spec=spec,
        due_ms=due_ms,
        at_ms=at_ms,
    )
