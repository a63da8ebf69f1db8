"""When schedules are due: pure functions, over zones, daylight saving and missed times."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sagastream import InvalidMessage, Schedule
from sagastream._schedules.due_times import due_times, fire_at, judge, next_due
from sagastream._schedules.schedule import decode_schedule, encode_schedule

HOUR_MS = 3_600_000


def _schedule(**options: Any) -> Schedule:
    return Schedule(name="s", stream="s:commands", event_type="s:do", **options)


def _ms(text: str) -> int:
    return round(1000 * datetime.fromisoformat(text).timestamp())


def _texts(schedule: Schedule, after: str, count: int) -> list[str]:
    """The first due times after a time, in the zone of the schedule."""
    found, zone = due_times(schedule, _ms(after)), ZoneInfo(schedule.zone)
    return [
        datetime.fromtimestamp(next(found) / 1000, zone).isoformat(timespec="minutes")
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        # 02:30 does not exist on 29 March 2026: it is due when the gap ends.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00Z",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"],
        ),
        # 02:30 occurs twice on 25 October 2026: it is due the first time only.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00Z",
            ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"],
        ),
        # Also for a process that asks between the two.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-25T01:15Z",
            ["2026-10-26T02:30+01:00"],
        ),
        # A minute with a star follows the clock: it is due in both hours, and in none.
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2026-10-25T00:15Z",
            [
                *("2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"),
                "2026-10-26T02:00+01:00",
            ],
        ),
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-28T02:00Z", ["2026-03-30T02:00+02:00"]),
        # Two times in the gap are one.
        (
            "15,45 2 * * *",
            "America/New_York",
            "2026-03-08T05:00Z",
            ["2026-03-08T03:00-04:00", "2026-03-09T02:15-04:00"],
        ),
        # A gap of half an hour, and one of a whole day.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T13:00Z", ["2026-10-04T02:30+11:00"]),
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-20T00:00Z", ["2011-12-31T00:00+14:00"]),
        # Leap days; 2100 has none.
        ("0 0 29 2 *", "UTC", "2097-01-01T00:00Z", ["2104-02-29T00:00+00:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00Z", ["2028-02-29T00:00+00:00"]),
        ("0 9 L * *", "Asia/Tokyo", "2028-02-10T00:00Z", ["2028-02-29T09:00+09:00"]),
        # As cron does, one of the two day fields is enough if neither begins with a star.
        (
            "0 9 1 * MON",
            "UTC",
            "2026-11-26T00:00Z",
            ["2026-11-30T09:00+00:00", "2026-12-01T09:00+00:00", "2026-12-07T09:00+00:00"],
        ),
    ],
)
def test_cron_times(cron: str, zone: str, after: str, expected: list[str]) -> None:
    """In the zone, with the documented rule for times that do not exist or occur twice."""
    assert _texts(_schedule(cron=cron, zone=zone), after, len(expected)) == expected


_CRONS = st.sampled_from(
    ["30 2 * * *", "0 0 * * *", "15,45 1-3 * * *", "*/20 * * * *", "0 */2 * * *", "59 23 * * SUN"]
)
_ZONES = st.sampled_from(
    [
        *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana"),
        *("Africa/Cairo", "Asia/Beirut", "Pacific/Apia", "Asia/Kathmandu", "America/Santiago"),
    ]
)
_TIMES = st.integers(_ms("2009-01-01T00:00Z"), _ms("2031-01-01T00:00Z"))


@given(_CRONS, _ZONES, _TIMES, st.floats(0, 1))
def test_every_process_computes_the_same_due_times(
    cron: str, zone: str, after_ms: int, share: float
) -> None:
    """Whenever it asks between two of them; they grow, and none is left out."""
    schedule = _schedule(cron=cron, zone=zone)
    first = next_due(schedule, after_ms)
    assert first is not None
    assert first > after_ms
    between = after_ms + int(share * (first - 1 - after_ms))
    assert next_due(schedule, between) == first
    assert next_due(schedule, first - 1) == first


@given(_CRONS, st.sampled_from(["2026-03-29", "2026-10-25"]), st.integers(-20, 50))
def test_around_a_change_of_the_clock(cron: str, day: str, half_hours: int) -> None:
    """The same times follow from each start near the change."""
    schedule = _schedule(cron=cron, zone="Europe/Berlin")
    start = _ms(f"{day}T00:00Z") + half_hours * HOUR_MS // 2
    long_before = [
        at for at in _until(schedule, start - 48 * HOUR_MS, start + 48 * HOUR_MS) if at > start
    ]
    assert _until(schedule, start, start + 48 * HOUR_MS) == long_before


def _until(schedule: Schedule, after_ms: int, end_ms: int) -> list[int]:
    found = []
    for at in due_times(schedule, after_ms):
        if at > end_ms:
            break
        found.append(at)
    return found


@given(st.integers(1000, 10**9), st.integers(0, 2 * 10**12), st.integers(0, 2 * 10**12))
def test_an_interval_counts_from_its_start(every_ms: int, first_ms: int, after_ms: int) -> None:
    """So that each process computes the same, whenever it began."""
    starts = datetime.fromtimestamp(first_ms / 1000, UTC)
    schedule = _schedule(every_s=every_ms / 1000, starts=starts)
    due = next_due(schedule, after_ms)
    assert due is not None
    assert due >= first_ms
    assert (due - first_ms) % every_ms == 0
    assert due > after_ms
    assert due - every_ms <= max(after_ms, first_ms)


def test_start_and_end_limit_it() -> None:
    """Both are due times themselves, if they fit."""
    starts, ends = (datetime(2026, 1, day, tzinfo=UTC) for day in (2, 4))
    schedule = _schedule(cron="0 0 * * *", starts=starts, ends=ends)
    assert [datetime.fromtimestamp(each / 1000, UTC).day for each in due_times(schedule, 0)] == [
        *(2, 3, 4)
    ]
    assert next_due(schedule, _ms("2026-01-04T00:00Z")) is None


@given(st.floats(0, 3600), st.integers(0, 10**6))
def test_jitter_follows_from_name_and_time(jitter_s: float, number: int) -> None:
    """It is the same in every process, below its limit."""
    schedule = _schedule(every_s=60, jitter_s=jitter_s)
    at = fire_at(schedule, number * 60_000)
    assert number * 60_000 <= at <= number * 60_000 + 1000 * jitter_s
    assert at == fire_at(decode_schedule(encode_schedule(schedule)), number * 60_000)


def test_jitter_spreads() -> None:
    """Over the whole range."""
    schedule = _schedule(every_s=60, jitter_s=10)
    shares = [(fire_at(schedule, n * 60_000) - n * 60_000) / 10_000 for n in range(200)]
    assert min(shares) < 0.05
    assert max(shares) > 0.95


def _all_fired(schedule: Schedule, due_ms: int, now_ms: int) -> tuple[list[int], int]:
    """What is fired of all that is due by now, and how many decisions it takes."""
    fired: list[int] = []
    following: int | None = due_ms
    decisions = 0
    while following is not None and fire_at(schedule, following) <= now_ms:
        firing = judge(schedule, following, now_ms)
        if not firing.is_missed:
            fired.append(following)
        following, decisions = firing.next_ms, decisions + 1
    return fired, decisions


@given(
    st.sampled_from([{"every_s": 60.0}, {"cron": "*/7 * * * *"}, {"cron": "0 3 * * *"}]),
    st.integers(0, 20),
    st.integers(0, 5000),
    st.sampled_from([0.0, 45.0]),
)
@example({"every_s": 60.0}, 3, 10, 0.0)
def test_the_last_missed_ones_are_made_up_for(
    period: dict[str, Any], catch_up: int, away_minutes: int, jitter_s: float
) -> None:
    """And all that are not missed; each once, in order."""
    schedule = _schedule(**period, catch_up=catch_up, late_s=90, jitter_s=jitter_s)
    first = next_due(schedule, _ms("2026-05-01T00:00Z"))
    assert first is not None
    now = first + away_minutes * 60_000
    past = [at for at in [first, *_until(schedule, first, now)] if fire_at(schedule, at) <= now]
    missed = [at for at in past if fire_at(schedule, at) < now - 90_000]
    in_time = [at for at in past if at not in missed]
    expected = (missed[-catch_up:] if catch_up else []) + in_time
    fired, decisions = _all_fired(schedule, first, now)
    assert fired == expected
    assert decisions <= len(expected) + 2


def test_years_without_a_listener_cost_little() -> None:
    """A schedule of each second is judged at once after a year."""
    schedule = _schedule(every_s=1, catch_up=5)
    now = _ms("2027-01-01T00:00Z")
    firing = judge(schedule, now - 365 * 24 * HOUR_MS, now)
    assert firing.is_missed
    assert firing.next_ms == now - 60_000 - 5000


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "cron"),
        ({"cron": "* * * * *", "every_s": 5}, "cron"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "* * * *"}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"cron": "@daily"}, "cron"),
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": 5}, "cron"),
        ({"cron": "* * * * *", "zone": "Mars/Base"}, "zone"),
        ({"cron": "* * * * *", "zone": "../etc/passwd"}, "zone"),
        ({"cron": "* * * * *", "zone": None}, "zone"),
        ({"every_s": 0.5}, "every_s"),
        ({"every_s": float("nan")}, "every_s"),
        ({"every_s": True}, "every_s"),
        ({"every_s": 5, "jitter_s": -1}, "jitter_s"),
        ({"every_s": 5, "late_s": 0}, "late_s"),
        ({"every_s": 5, "catch_up": 1.5}, "catch_up"),
        ({"every_s": 5, "catch_up": 10**6}, "catch_up"),
        ({"every_s": 5, "overlap": "queue"}, "catch_up"),
        ({"every_s": 5, "overlap": "both"}, "overlap"),
        ({"every_s": 5, "starts": datetime(2026, 1, 1)}, "starts"),  # noqa: DTZ001 - that is it
        ({"every_s": 5, "ends": "tomorrow"}, "ends"),
        (
            {
                "every_s": 5,
                "starts": datetime(2026, 1, 2, tzinfo=UTC),
                "ends": datetime(2026, 1, 1, tzinfo=UTC),
            },
            "ends",
        ),
        ({"every_s": 5, "payload": [1]}, "payload"),
    ],
)
def test_a_wrong_schedule_is_refused(options: dict[str, Any], field: str) -> None:
    """When it is made; the error names the field."""
    with pytest.raises(InvalidMessage) as error:
        _schedule(**options)
    assert error.value.field == field


@pytest.mark.parametrize("name", ["", "a b", "n" * 201])
def test_a_wrong_name_is_refused(name: str) -> None:
    """It is a part of a key and of request ids."""
    with pytest.raises(InvalidMessage, match="name"):
        Schedule(name=name, every_s=5)


def test_it_is_kept_as_json() -> None:
    """And comes back equal."""
    schedule = _schedule(
        cron="5 4 * * SUN",
        zone="Europe/Berlin",
        payload={"n": 1},
        catch_up=2,
        overlap="queue",
        ends=datetime(2030, 1, 1, tzinfo=UTC) + timedelta(hours=1),
    )
    assert decode_schedule(encode_schedule(schedule)) == schedule


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"v":2,"name":"s"}', '{"v":1}', '{"v":1,"name":"s","new":1}', "\xff"]
)
def test_what_is_malformed_or_newer_is_refused(text: str) -> None:
    """With an error of the library, whatever it is."""
    with pytest.raises(InvalidMessage):
        decode_schedule(text)
