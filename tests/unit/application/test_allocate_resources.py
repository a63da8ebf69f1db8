import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from app.command_handlers.handlers.allocate_resources import allocate_resources
from app.command_handlers.handlers.release_resources import release_resources
from app.config import Settings, get_settings
from app.redis_utils import request_and_reply
from app.robots import fleet
from app.robots.fleet import Robot, RobotsCharging, TooFewRobots, choose
from sagastream import Bus, RequestFailed
from tests.listeners import listening

STREAM = "resources:commands"
SETTINGS = Settings()


def _robot(name: str, **changes: Any) -> Robot:
    return replace(Robot(name=name, battery=90.0, x=0.0, y=0.0, present=True), **changes)


async def _fleet_of(count: int) -> list[str]:
    names = [f"robot-{number}" for number in range(count)]
    for name in names:
        await fleet.check_in(name)
    return names


def test_robots_are_chosen_by_battery_and_distance() -> None:
    """Both the charge and the distance to the gate count."""
    robots = [
        _robot("empty", battery=40.0),
        _robot("far", battery=90.0, x=5000.0),
        _robot("good", battery=80.0),
        _robot("best", battery=95.0),
    ]
    chosen = choose(robots, 2, 0.0, SETTINGS)
    assert [robot.name for robot in chosen] == ["best", "good"]


def test_held_absent_and_empty_robots_are_not_chosen() -> None:
    """The error says how many robots are available and why not more."""
    robots = [
        _robot("held", holder="m"),
        _robot("absent", present=False),
        _robot("empty", battery=5.0),
        _robot("free"),
    ]
    with pytest.raises(
        TooFewRobots, match=r"2 robots asked for, 1 free .of 4: 1 held, 1 absent, 1 low"
    ):
        choose(robots, 2, 0.0, SETTINGS)


def test_what_a_robot_reports_of_itself_counts() -> None:
    """Its own measure of its charge, and that it takes no orders for now."""
    robots = [
        _robot("paused", unavailable="it is paused"),
        _robot("empty", battery=90.0, measured=5.0),
        _robot("full", battery=5.0, measured=80.0),
    ]
    assert [robot.name for robot in choose(robots, 1, 0.0, SETTINGS)] == ["full"]
    with pytest.raises(RobotsCharging, match="0 absent, 1 unavailable, 1 low on battery"):
        choose(robots, 2, 0.0, SETTINGS)
    with pytest.raises(TooFewRobots) as caught:
        choose(robots, 3, 0.0, SETTINGS)
    assert not isinstance(caught.value, RobotsCharging)


@pytest.mark.parametrize(
    "seen",
    [
        *('{"measured": 5}', '{"measured": "x", "unavailable": ""}', "[1]", "{", "\xff"),
        *('{"measured": NaN, "unavailable": ""}', '{"measured": 5, "unavailable": 3}'),
    ],
)
async def test_a_malformed_condition_hides_no_other_robot(app_bus: Bus, seen: str) -> None:
    """What comes from a robot's check-in is checked like its record."""
    await fleet.check_in("good", measured=55.5, unavailable="it is paused")
    await fleet.check_in("odd")
    key = app_bus.key("fleet:seen:odd")
    await app_bus.command("SET", key, seen.encode("latin-1"), "PX", 60_000)
    [robot] = await fleet.robots()
    assert (robot.name, robot.measured, robot.unavailable) == ("good", 55.5, "it is paused")


def test_a_free_robot_charges() -> None:
    """A free robot becomes available after charging; a held robot does not charge."""
    tired = _robot("tired", battery=5.0, since=0.0)
    assert choose([tired], 1, 60.0, SETTINGS) == [tired]
    assert replace(tired, holder="m").charge(60.0, SETTINGS) == 5.0


async def test_a_mission_reserves_and_releases_robots(app_bus: Bus) -> None:
    """Allocated robots are held by the mission until they are released."""
    names = await _fleet_of(3)
    async with listening(app_bus, [allocate_resources, release_resources]):
        got = await request_and_reply(
            STREAM, "resources:allocate", {"mission": "m1", "robot_count": 2}
        )
        assert set(got["payload"]["robots"]) < set(names)
        assert {r.name for r in await fleet.robots() if r.holder == "m1"} == set(
            got["payload"]["robots"]
        )
        freed = await request_and_reply(STREAM, "resources:release", {"mission": "m1"})
        again = await request_and_reply(STREAM, "resources:release", {"mission": "m1", "n": 2})
    assert freed["payload"]["released"] == got["payload"]["robots"]
    assert again["payload"]["released"] == []
    assert not any(robot.holder for robot in await fleet.robots())


async def test_too_few_robots_fail_and_reserve_none(app_bus: Bus) -> None:
    """A mission gets all robots that it asks for or none."""
    await _fleet_of(2)
    async with listening(app_bus, [allocate_resources]):
        with pytest.raises(RequestFailed, match="3 robots asked for, 2 free") as caught:
            await request_and_reply(
                STREAM, "resources:allocate", {"mission": "m1", "robot_count": 3}
            )
    assert caught.value.error_type == "TooFewRobots"
    assert not any(robot.holder for robot in await fleet.robots())


@pytest.mark.parametrize("count", [0, 65, -1, "two", True, None, 1.5])
async def test_a_wrong_number_of_robots_names_the_field(app_bus: Bus, count: Any) -> None:
    """The requester learns which field is wrong."""
    async with listening(app_bus, [allocate_resources]):
        with pytest.raises(RequestFailed, match="robot_count") as caught:
            await request_and_reply(
                STREAM, "resources:allocate", {"mission": "m1", "robot_count": count}
            )
    assert caught.value.error_type == "InvalidMessage"


async def _allocate(mission: str, count: int) -> list[str]:
    reply = await request_and_reply(
        STREAM, "resources:allocate", {"mission": mission, "robot_count": count}
    )
    return list(reply["payload"]["robots"])


async def test_concurrent_missions_share_the_fleet_without_overlap(app_bus: Bus) -> None:
    """Ten missions compete for eight robots, three each: two win, and no robot is reserved twice."""
    await _fleet_of(8)
    async with (
        listening(app_bus, [allocate_resources]),
        listening(app_bus, [allocate_resources]),
    ):
        results = await asyncio.gather(
            *(_allocate(f"m{number}", 3) for number in range(10)), return_exceptions=True
        )
    won = [names for names in results if isinstance(names, list)]
    assert len(won) == 2
    lost = [error for error in results if isinstance(error, RequestFailed)]
    assert [error.error_type for error in lost] == ["TooFewRobots"] * 8
    given = [name for names in won for name in names]
    assert len(given) == len(set(given)) == 6


async def test_reserving_again_returns_the_same_robots(app_bus: Bus) -> None:
    """A repeated command reserves no further robots."""
    await _fleet_of(4)
    async with listening(app_bus, [allocate_resources]):
        assert await _allocate("m1", 2) == await _allocate("m1", 2)
    assert len([r for r in await fleet.robots() if r.holder]) == 2


async def test_a_handler_that_lost_its_claim_reserves_nothing(app_bus: Bus) -> None:
    """The reservation is written together with the reply or not at all."""
    await _fleet_of(2)
    names, writes = await fleet.reserve("m1", 2)
    assert len(names) == len(writes) == 2
    assert not any(robot.holder for robot in await fleet.robots())


async def test_driving_uses_the_battery(app_bus: Bus) -> None:
    """A returning robot has lost charge for the distance driven."""
    await _fleet_of(1)
    async with listening(app_bus, [allocate_resources]):
        (name,) = await _allocate("m1", 1)
    before = (await fleet.robots())[0].battery
    _, (write,) = await fleet.release("m1", {name: 500.0})
    assert write.value is not None
    after = json.loads(write.value)["battery"]
    assert before - after == pytest.approx(500.0 * get_settings().battery_per_metre)


async def test_a_robot_that_checks_out_is_absent(app_bus: Bus) -> None:
    """The robots of a stopped process are not reserved."""
    (name,) = await _fleet_of(1)
    await fleet.check_out(name)
    with pytest.raises(TooFewRobots, match="1 absent"):
        await fleet.reserve("m1", 1)


@pytest.mark.parametrize(
    ("batteries", "absent", "charge_per_s", "error"),
    [
        ((100.0, 5.0), 0, 1.0, RobotsCharging),
        ((5.0, 5.0), 1, 1.0, RobotsCharging),
        ((100.0, 5.0), 0, 0.0, TooFewRobots),
        ((100.0,), 1, 1.0, TooFewRobots),
        ((5.0, -1.0), 0, 1.0, TooFewRobots),
    ],
)
def test_only_robots_that_charge_are_waited_for(
    batteries: tuple[float, ...], absent: int, charge_per_s: float, error: type[TooFewRobots]
) -> None:
    """Two robots are asked for: a wait helps if two are present and free, charge, and are near."""
    team = [
        Robot(f"r{n}", max(level, 0.0), 0.0 if level >= 0 else 5000.0, 0.0, present=True)
        for n, level in enumerate(batteries)
    ]
    team += [Robot(f"a{n}", 100.0, 0.0, 0.0) for n in range(absent)]
    settings = SETTINGS.model_copy(update={"charge_per_s": charge_per_s})
    with pytest.raises(TooFewRobots) as caught:
        choose(team, 2, 0.0, settings)
    assert type(caught.value) is error
