"""`sagastream schedule`: list, show, set, pause, resume, run and drop schedules."""

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, get_args

from sagastream.admission import Priority, PriorityClass
from sagastream.bus import Bus
from sagastream.cli.arguments import count, identity, json_object, seconds
from sagastream.cli.output import fields, table
from sagastream.errors import InvalidMessage
from sagastream.schedules import (
    Overlap,
    Schedule,
    ScheduleStatus,
    drop_schedule,
    find_schedules,
    pause_schedule,
    read_schedule,
    resolve_schedule,
    resume_schedule,
    run_schedule,
    set_schedule,
)

_COLUMNS = ("name", "state", "stream", "event_type", "when", "due", "last_request", "last_outcome")
# The options of `schedule set` that are fields of a schedule.
_SETTABLE = (
    *("stream", "event_type", "payload", "cron", "every_s", "zone", "jitter_s", "late_s"),
    *("catch_up", "overlap", "starts", "ends"),
)


def add_verbs(add: Callable[..., Any]) -> None:
    """Add the verbs."""
    listing = add(
        "list",
        "List schedules: when each is due next, and how its last request ended.",
        "schedule list --stream shop:commands -o jsonl",
        list_schedules,
        lambda rows: table(rows, _COLUMNS),
    )
    listing.option("--stream", default="", help="only of this command stream")
    setting = add(
        "set",
        "Set a schedule; of one that is there, only what is given is changed.",
        "schedule set nightly --stream shop:commands --event-type shop:report "
        "--cron '30 2 * * *' --zone Europe/Berlin",
        set_one,
        _text_of_change,
    )
    setting.argument("name", "the whole name of the schedule", type=identity)
    _add_settings(setting)
    for name, description, call, as_text in (
        ("show", "Show a schedule.", show, fields),
        ("pause", "Let no listener fire a schedule.", pause, _text_of_change),
        (
            "resume",
            "Fire a paused schedule again; what was due meanwhile is skipped.",
            resume,
            _text_of_change,
        ),
        ("run", "Fire a schedule now; its due times stay.", run, _text_of_change),
        (
            "drop",
            "Delete a schedule; if code declares it, a listener sets it again at its start.",
            drop,
            _text_of_change,
        ),
    ):
        verb = add(name, description, f"schedule {name} nightly", call, as_text)
        verb.argument(
            "name", "the schedule's name, or its beginning if no other one begins so", type=identity
        )


def _add_settings(verb: Any) -> None:
    verb.option("--stream", help="the command stream, such as shop:commands")
    verb.option("--event-type", help="the event type, such as shop:report")
    verb.option("--payload", type=json_object, help="a JSON object; {} if it is not given")
    verb.option("--cron", metavar="EXPRESSION", help="five fields, such as '30 2 * * MON-FRI'")
    verb.option(
        *("--every",),
        dest="every_s",
        type=seconds,
        metavar="SECONDS",
        help="an interval instead of --cron",
    )
    verb.option("--zone", help="the time zone of --cron, such as Europe/Berlin; default: UTC")
    verb.option(
        *("--jitter",),
        dest="jitter_s",
        type=seconds,
        metavar="SECONDS",
        help="fire up to so much later",
    )
    verb.option(
        *("--late",),
        dest="late_s",
        type=seconds,
        metavar="SECONDS",
        help="a firing that is later than this is missed; default: 60",
    )
    verb.option(
        "--catch-up", type=count, help="how many missed firings are made up for; default: 0"
    )
    verb.option(
        "--overlap",
        choices=get_args(Overlap),
        help="what happens while the request before has not ended; default: skip",
    )
    verb.option(
        "--priority", choices=get_args(PriorityClass), help="that of its commands; default: none"
    )
    verb.option(
        "--fairness-key", help="whose turn its commands use; with --priority, or normal without it"
    )
    for name in ("starts", "ends"):
        verb.option(
            f"--{name}", type=_time, metavar="TIME", help="such as 2030-01-01T00:00:00+01:00"
        )


async def list_schedules(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each schedule."""
    return [_row(found) for found in await find_schedules(bus, stream=options.stream)]


async def show(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """A schedule with all its settings."""
    found = await resolve_schedule(bus, options.name)
    row = _row(found)
    if found.schedule:
        settings = {name: getattr(found.schedule, name) for name in _SETTABLE}
        times = {
            name: value.isoformat()
            for name, value in settings.items()
            if isinstance(value, datetime)
        }
        priority = found.schedule.priority
        row |= settings | times | {"priority": asdict(priority) if priority else None}
    return row


async def set_one(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Set a schedule, or change what is given of one that is there.

    Raises:
        InvalidMessage: A value is invalid, or one that is needed is missing.
    """
    given = {name: getattr(options, name) for name in _SETTABLE}
    given = {name: value for name, value in given.items() if value is not None}
    priority = {"priority": options.priority, "fairness_key": options.fairness_key}
    priority = {name: value for name, value in priority.items() if value is not None}
    found = await read_schedule(bus, options.name)
    # It may read the files of a time zone.
    schedule = await asyncio.to_thread(_changed, options.name, found, given, priority)
    is_changed = await set_schedule(bus, schedule)
    return await _answer(bus, options.name, "is set" if is_changed else "was set so already")


def _changed(
    name: str, found: ScheduleStatus | None, given: dict[str, Any], priority: dict[str, Any]
) -> Schedule:
    known = found.schedule.priority if found and found.schedule else None
    if priority:
        given["priority"] = replace(known or Priority(), **priority)
    if found is not None and found.schedule is not None:
        if "cron" in given:
            given.setdefault("every_s", None)
        elif "every_s" in given:
            given["cron"] = ""
        return replace(found.schedule, **given)
    for field in ("stream", "event_type"):
        if not given.get(field):
            raise InvalidMessage(field, f"of a new schedule is needed: --{field.replace('_', '-')}")
    return Schedule(name=name, **given)


async def pause(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Pause a schedule."""
    name = (await resolve_schedule(bus, options.name)).name
    await pause_schedule(bus, name)
    return await _answer(bus, name, "is paused")


async def resume(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Resume a schedule."""
    name = (await resolve_schedule(bus, options.name)).name
    await resume_schedule(bus, name)
    return await _answer(bus, name, "goes on")


async def run(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Fire a schedule now."""
    name = (await resolve_schedule(bus, options.name)).name
    request_id = await run_schedule(bus, name)
    return await _answer(bus, name, f"has emitted {request_id}")


async def drop(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Delete a schedule."""
    found = await resolve_schedule(bus, options.name)
    await drop_schedule(bus, found.name)
    return _row(found) | {"state": "dropped", "change": "is dropped"}


async def _answer(bus: Bus, name: str, change: str) -> dict[str, Any]:
    found = await resolve_schedule(bus, name)
    return _row(found) | {"change": change}


def _text_of_change(row: dict[str, Any]) -> str:
    return f"schedule {row['name']} {row['change']}"


def _row(found: ScheduleStatus) -> dict[str, Any]:
    schedule = found.schedule
    return {
        "name": found.name,
        "state": found.state,
        "stream": schedule.stream if schedule else "",
        "event_type": schedule.event_type if schedule else "",
        "when": schedule.when if schedule else found.problem,
        "due": found.due_s,
        "last_request": found.last_request,
        "last_outcome": found.last_outcome,
        "last_fired": found.last_fired_s,
        "fired": found.fired,
        "skipped": found.skipped,
        "missed": found.missed,
        "refused": found.refused,
    }


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not a time such as 2030-01-01T00:00:00Z"
        ) from error
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} needs a time zone, such as {text}Z")
    return moment
