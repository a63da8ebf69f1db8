"""`sagastream pause`, `resume` and `queue list`: what waits on a stream, and what is held back."""

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sagastream.bus import Bus
from sagastream.cli.output import table
from sagastream.errors import SagastreamError
from sagastream.flow_control import Pause, pause, pauses, queues, resume
from sagastream.inspection import streams

_QUEUE_COLUMNS = ("stream", "reason", "key", "waiting", "in_use")


class NotPaused(SagastreamError):
    """The target is not paused."""


def add_pauses(add: Any) -> None:
    """Add the verbs that hold back what a stream's listeners begin."""
    for name, description, example, call, as_text in (
        (
            "pause",
            "Let no request of a stream begin, or none of an event type or key; what runs goes on.",
            "pause shop:commands --event-type shop:order --reason 'the bank is closed'",
            _pause,
            _text_of_pause,
        ),
        (
            "resume",
            "Let what is paused begin again.",
            "resume shop:commands --event-type shop:order",
            _resume,
            lambda found: f"resumed {found['target']}",
        ),
    ):
        verb = add(name, description, example, call, as_text)
        verb.argument("stream", "the command stream, such as shop:commands")
        verb.option("--event-type", default="", help="only requests of this event type")
        verb.option(
            *("--key",),
            default="",
            metavar="NAME=VALUE",
            help="only requests of a limit's key, as customer_id=7, or of fairness_key=VALUE",
        )
        if name == "pause":
            verb.option("--reason", default="", help="why, for those who look at it later")


def add_queues(add: Any) -> None:
    """Add the verb that shows what waits."""
    verb = add(
        "list",
        "List what waits, and for what: limit, rate, priority, paused, or not before.",
        "queue list",
        list_queues,
        lambda rows: table(rows, _QUEUE_COLUMNS),
    )
    verb.argument("stream", "the command stream; all if it is not given", nargs="?", default="")


async def list_queues(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each queue, the longest of each stream first."""
    names = [options.stream] if options.stream else [each.stream for each in await streams(bus)]
    return [asdict(queue) for name in names for queue in await queues(bus, name)]


async def flow_of(bus: Bus, stream: str) -> dict[str, Any]:
    """How many requests of a stream wait, and what of it is paused, for its row of `status`."""
    waiting = sum(queue.waiting for queue in await queues(bus, stream))
    return {"waiting": waiting, "paused": [found.target for found in await pauses(bus, stream)]}


async def _pause(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    await pause(
        bus,
        options.stream,
        event_type=options.event_type,
        key=options.key,
        reason=options.reason,
    )
    found = await pauses(bus, options.stream)
    return asdict(next(each for each in found if each.target == _target_of(options)))


async def _resume(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    was_paused = await resume(bus, options.stream, event_type=options.event_type, key=options.key)
    if not was_paused:
        others = ", ".join(each.target for each in await pauses(bus, options.stream)) or "nothing"
        raise NotPaused(
            f"{_target_of(options)} of {options.stream} is not paused; paused there: {others}"
        )
    return {"stream": options.stream, "target": _target_of(options)}


def _target_of(options: argparse.Namespace) -> str:
    return str(options.key or options.event_type or "*")


def _text_of_pause(found: dict[str, Any]) -> str:
    paused = Pause(**found)
    since = datetime.fromtimestamp(paused.since, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    reason = f": {paused.reason}" if paused.reason else ""
    return f"paused {paused.target} of {paused.stream} since {since}{reason}"
