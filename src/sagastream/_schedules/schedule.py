"""`Schedule`: which command is emitted repeatedly, and when; and its form on the server.

When it is due follows in `due_times`; nothing here reads a clock.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sagastream._codec.payload import decode_json, decode_payload, encode_payload
from sagastream._codec.validation import check_name
from sagastream.admission import Priority
from sagastream.errors import InvalidMessage
from sagastream.message import Payload

# The layout of a schedule on the server that this release writes.
SCHEDULE_LAYOUT = 1
# The id of a firing is the name and the time.
MAX_SCHEDULE_NAME = 200
_MIN_INTERVAL_S = 1.0
_MAX_CATCH_UP = 1000
_DAY_S = 86_400.0

Overlap = Literal["skip", "queue", "replace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A command that is emitted repeatedly: by a cron expression, or at an interval.

    Attributes:
        name: Its identity in the namespace, up to 200 characters.
        stream: The command stream; '' for that of the handler that declares it.
        event_type: `domain:action`; '' for that of the handler that declares it.
        payload: A JSON object, or a model; each firing has the same.
        cron: Five fields as of Debian's cron, such as `30 2 * * MON-FRI`; '' for an interval.
        every_s: Seconds from one firing to the next, at least 1; None for a cron expression. They
            count from `starts`, or from the Unix epoch.
        zone: The time zone of the cron expression, such as `Europe/Berlin`.
        jitter_s: A firing comes up to this many seconds after its time. How many follows from the
            name and the time: it is the same in every process.
        late_s: A firing that could not be emitted for this many seconds is missed: no listener was
            there, or with `queue` the one before had not ended.
        catch_up: How many missed firings are made up for, the latest ones; the others are skipped.
        overlap: What happens to a firing while the request of the one before has not ended: it is
            skipped (`skip`), waits for its end (`queue`, with a `catch_up` of 1 or more), or
            cancels that one and begins when its handler has stopped (`replace`).
        starts: The time before which nothing is due; None for none.
        ends: The time after which nothing is due; None for none.
        priority: That of its commands; None for none.

    Raises:
        InvalidMessage: A value is invalid, or a cron expression needs the extra `schedule`; names the
            field.
    """

    name: str
    stream: str = ""
    event_type: str = ""
    payload: Payload = field(default_factory=dict)
    cron: str = ""
    every_s: float | None = None
    zone: str = "UTC"
    jitter_s: float = 0.0
    late_s: float = 60.0
    catch_up: int = 0
    overlap: Overlap = "skip"
    starts: datetime | None = None
    ends: datetime | None = None
    priority: Priority | None = None

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if len(self.name) > MAX_SCHEDULE_NAME:
            raise InvalidMessage("name", f"is longer than {MAX_SCHEDULE_NAME} characters")
        check_name("stream", self.stream, required=False)
        check_name("event_type", self.event_type, required=False)
        object.__setattr__(self, "payload", decode_payload(encode_payload(self.payload)))
        self._check_period()
        for name, least, most in (("jitter_s", 0.0, _DAY_S), ("late_s", 1.0, math.inf)):
            if not _is_number(getattr(self, name), least, most):
                limit = f"from {least:g}" + (f" to {most:g}" if most < math.inf else "")
                raise InvalidMessage(
                    name, f"must be a number of seconds {limit}, not {getattr(self, name)!r}"
                )
        if type(self.catch_up) is not int or not 0 <= self.catch_up <= _MAX_CATCH_UP:
            raise InvalidMessage(
                "catch_up", f"must be from 0 to {_MAX_CATCH_UP}, not {self.catch_up!r}"
            )
        if self.overlap not in get_args(Overlap):
            raise InvalidMessage(
                "overlap", f"must be one of {', '.join(get_args(Overlap))}, not {self.overlap!r}"
            )
        if self.overlap == "queue" and not self.catch_up:
            raise InvalidMessage(
                "catch_up", "must be 1 or more with overlap 'queue': this many firings wait at most"
            )
        if not isinstance(self.priority, Priority | None):
            raise InvalidMessage("priority", f"must be a Priority, not {self.priority!r}")
        self._check_times()

    def _check_period(self) -> None:
        if not isinstance(self.cron, str):
            raise InvalidMessage("cron", f"must be text, not {self.cron!r}")
        if bool(self.cron) == (self.every_s is not None):
            raise InvalidMessage("cron", "give either a cron expression or every_s")
        if self.every_s is not None and not _is_number(self.every_s, _MIN_INTERVAL_S, math.inf):
            raise InvalidMessage(
                "every_s", f"must be a number of seconds from 1, not {self.every_s!r}"
            )
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
            raise InvalidMessage(
                "zone",
                f"{self.zone!r} is not a time zone that is known here, such as Europe/Berlin",
            ) from error
        if self.cron:
            check_cron(self.cron)

    def _check_times(self) -> None:
        for name in ("starts", "ends"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, datetime) or value.tzinfo is None:
                raise InvalidMessage(name, f"must be a datetime with a time zone, not {value!r}")
            try:
                moment = value.astimezone(UTC)
            except OverflowError as error:
                raise InvalidMessage(name, f"{value!r} is out of range") from error
            object.__setattr__(self, name, moment)
        if self.starts and self.ends and self.ends < self.starts:
            raise InvalidMessage("ends", "must not be before starts")

    @property
    def when(self) -> str:
        """Its cron expression and time zone, or its interval, as text."""
        return f"{self.cron} {self.zone}" if self.cron else f"every {self.every_s:g} s"

    def of(self, stream: str, event_type: str) -> "Schedule":
        """This schedule with the stream and the event type of the handler that declares it.

        Raises:
            InvalidMessage: It has others.
        """
        for name, value in (("stream", stream), ("event_type", event_type)):
            if getattr(self, name) not in {"", value}:
                raise InvalidMessage(
                    name,
                    f"of schedule {self.name} is {getattr(self, name)}, its handler has {value}",
                )
        return replace(self, stream=stream, event_type=event_type)

    def request_id(self, due_ms: int) -> str:
        """The id of the firing at a due time, in milliseconds since the Unix epoch."""
        seconds, millis = divmod(due_ms, 1000)
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self.name}@{text}{f'.{millis:03d}' if millis else ''}Z"


def check_cron(expression: str) -> None:
    """Check a cron expression.

    Raises:
        InvalidMessage: It is malformed, or never due, or the extra `schedule` is not installed.
    """
    simulator = cron_library()
    if len(expression.split()) != len(("minute", "hour", "day of month", "month", "day of week")):
        raise InvalidMessage(
            "cron", f"{expression!r} must have five fields, such as '30 2 * * MON-FRI'"
        )
    try:
        next(simulator.CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)))
    except StopIteration as error:
        raise InvalidMessage("cron", f"{expression!r} is never due") from error
    except (simulator.CronSimError, ValueError, TypeError) as error:
        raise InvalidMessage("cron", f"{expression!r}: {error}") from error


def cron_library() -> Any:
    """The library that reads cron expressions.

    Raises:
        InvalidMessage: It is not installed.
    """
    try:
        import cronsim  # noqa: PLC0415 - it is an extra
    except ModuleNotFoundError as error:
        raise InvalidMessage("cron", "needs pip install 'sagastream[schedule]'") from error
    return cronsim


def encode_schedule(schedule: Schedule) -> str:
    """A schedule as it is kept on the server: JSON without what has its default."""
    value: dict[str, Any] = {"v": SCHEDULE_LAYOUT}
    for each in fields(schedule):
        item = getattr(schedule, each.name)
        if isinstance(item, datetime):
            item = item.isoformat()
        elif isinstance(item, Priority):
            item = asdict(item)
        if item not in (each.default, {}):
            value[each.name] = item
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def decode_schedule(text: str | bytes) -> Schedule:
    """The inverse of `encode_schedule`.

    Raises:
        InvalidMessage: It is malformed, or a newer release wrote it, or its cron expression needs the
            extra `schedule`.
    """
    try:
        value = decode_json(text)
        version = value.pop("v")
    except (ValueError, KeyError, TypeError, AttributeError, InvalidMessage) as error:
        raise InvalidMessage("schedule", f"is malformed ({error})"[:200]) from error
    if version != SCHEDULE_LAYOUT:
        raise InvalidMessage(
            "schedule", f"has layout {version!r}, this release reads {SCHEDULE_LAYOUT}"
        )
    try:
        for name in ("starts", "ends"):
            if name in value:
                value[name] = datetime.fromisoformat(value[name])
        if "priority" in value:
            value["priority"] = Priority(**value["priority"])
        return Schedule(**value)
    except (TypeError, ValueError) as error:
        raise InvalidMessage("schedule", f"is malformed ({error})"[:200]) from error


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in {int, float} and math.isfinite(value) and least <= value <= most
