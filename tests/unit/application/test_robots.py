"""Orders to robots: fencing of replaced handlers, repeated orders, lost robots."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.command_handlers.handlers.allocate_resources import allocate_resources
from app.command_handlers.handlers.perform_exploration import perform_exploration
from app.command_handlers.handlers.plan_route import plan_route
from app.config import choose_settings, get_settings
from app.exploration.driver import DriveReport, RobotDriver
from app.exploration.grid import GridFrame
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.missions.recording import read_frames
from app.redis_utils import request_and_reply
from app.robots import fleet
from app.robots.process import OrderFence, RobotService, StaleOrder, deploy_simulated
from app.robots.team import RobotLost, Team
from sagastream import Bus, Command, Handler, RequestFailed
from tests.listeners import listening

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(120)]


@pytest.fixture
def area(app_bus: Bus, tmp_path: Path) -> str:
    """A floor of four rooms."""
    floor = draw_rooms(4)
    save_map(tmp_path / "room.yaml", floor.grid, floor.frame)
    choose_settings(map_dir=tmp_path, robot_seen_s=60)
    return "room"


@asynccontextmanager
async def robots(bus: Bus, names: Sequence[str]) -> AsyncIterator[dict[str, AsyncExitStack]]:
    """Listening robots, each on its own exit stack: closing the stack kills the robot."""
    async with AsyncExitStack() as all_of_them:
        found = {}
        for name in names:
            await fleet.check_in(name)
            found[name] = await all_of_them.enter_async_context(AsyncExitStack())
            handlers = RobotService(name).handlers()
            await found[name].enter_async_context(listening(bus, handlers, drain_s=0.1))
        yield found


async def _allocate(bus: Bus, mission: str, count: int) -> list[str]:
    async with listening(bus, [allocate_resources]):
        reply = await request_and_reply(
            get_settings().resources_stream,
            "resources:allocate",
            {"mission": mission, "robot_count": count},
        )
    return list(reply["payload"]["robots"])


def _command(mission: str, names: Sequence[str], **changes: Any) -> Command:
    command = Command(
        payload={"mission": mission, "robots": list(names)},
        request_id="plan",
        correlation_id="c",
        saga_id="",
        event_type="routing:plan",
        epoch=1,
    )
    return replace(command, **changes)


def test_a_fence_admits_only_the_newest_commander() -> None:
    """An earlier claim of the request and a replaced request are refused."""
    fence = OrderFence()
    for commander, epoch in (("plan", 1), ("plan", 2), ("explore", 1), ("explore", 1)):
        fence.admit(commander, epoch)
    for commander, epoch in (("plan", 3), ("explore", 0)):
        with pytest.raises(StaleOrder, match=commander):
            fence.admit(commander, epoch)


async def test_a_robot_refuses_a_mission_that_does_not_hold_it(app_bus: Bus, area: str) -> None:
    """A late deployment of an undone mission does not take the robot."""
    async with robots(app_bus, ["r1"]):
        with pytest.raises(RequestFailed, match="not held by mission m1") as caught:
            await Team(_command("m1", ["r1"])).deploy(area, 1)
    assert caught.value.error_type == "NotHeld"


async def test_orders_of_a_replaced_handler_are_refused(app_bus: Bus, area: str) -> None:
    """Robots execute orders of the later claim and refuse those of the earlier one."""
    async with robots(app_bus, ["r1"]):
        names = await _allocate(app_bus, "m1", 1)
        await Team(_command("m1", names)).deploy(area, 1)
        later = Team(_command("m1", names, request_id="explore", epoch=2))
        assert not isinstance((await later.report())[0], RobotLost)
        for stale in (_command("m1", names), _command("m1", names, request_id="explore")):
            with pytest.raises(RequestFailed) as caught:
                await Team(stale).report()
            assert caught.value.error_type == "StaleOrder"


async def test_a_repeated_order_is_executed_once(app_bus: Bus, area: str) -> None:
    """The second delivery gets the first result, so that no map change is lost."""
    service = RobotService("r1")
    await fleet.check_in("r1")
    names = await _allocate(app_bus, "m1", 1)
    order = {"mission": "m1", "commander": "plan", "epoch": 1}
    deploy, drive = service.handlers()[:2]

    async def send(handler: Handler, request_id: str, **payload: Any) -> Any:
        command = _command("m1", names, request_id=request_id, event_type=handler.event_type)
        return await handler(replace(command, payload=order | payload), None)

    await send(deploy, "o1", area=area, team=1, seed=1, slot=0)
    first = await send(drive, "o2", path=[], until=2.0)
    assert await send(drive, "o2", path=[], until=2.0) == first
    assert first["leg"]["time"] == 2.0
    with pytest.raises(ValueError, match="cannot drive until"):
        await send(drive, "o3", path=[], until=1.0)


async def test_a_robot_may_have_another_driver(app_bus: Bus, area: str) -> None:
    """The given `Deploy` is used, and the mission gets its first drive report."""

    def deploy(order: dict[str, Any]) -> tuple[RobotDriver, GridFrame, DriveReport]:
        driver, frame, leg = deploy_simulated(order)
        return driver, frame, replace(leg, distance=7.5)

    await fleet.check_in("r1")
    names = await _allocate(app_bus, "m1", 1)
    order = {"mission": "m1", "commander": "plan", "epoch": 1, "area": area}
    payload = order | {"team": 1, "seed": 1, "slot": 0}
    command = _command("m1", names, event_type="robot:deploy", payload=payload)
    reply = await RobotService("r1", deploy).handlers()[0](command, None)
    assert reply["leg"]["distance"] == 7.5


async def test_a_late_order_of_another_mission_changes_nothing(app_bus: Bus, area: str) -> None:
    """It is refused before it replaces the current commander."""
    async with robots(app_bus, ["r1"]):
        names = await _allocate(app_bus, "m1", 1)
        team = Team(_command("m1", names))
        await team.deploy(area, 1)
        await Team(_command("m0", names, request_id="abort")).recall()
        assert not isinstance((await team.report())[0], RobotLost)


async def test_a_recalled_robot_still_reports_its_map(app_bus: Bus, area: str) -> None:
    """A recalled robot still reports its map, for the recalling handler may have died."""
    async with robots(app_bus, ["r1"]):
        names = await _allocate(app_bus, "m1", 1)
        team = Team(_command("m1", names))
        await team.deploy(area, 1)
        before = (await team.report())[0]
        await team.recall()
        again = Team(_command("m1", names, epoch=2))
        after = (await again.report())[0]
        assert not isinstance(before, RobotLost)
        assert not isinstance(after, RobotLost)
        assert after.pose == before.pose
        with pytest.raises(RequestFailed):
            await team.report()


async def _plan(bus: Bus, area: str, names: Sequence[str]) -> dict[str, Any]:
    mission = {"mission": "m1", "area": area, "seed": 1, "robots": list(names)}
    async with listening(bus, [plan_route]):
        planned = await request_and_reply(get_settings().routing_stream, "routing:plan", mission)
    return dict(mission | planned["payload"])


async def test_a_lost_robot_is_removed_and_the_others_explore_its_part(
    app_bus: Bus, area: str
) -> None:
    """The mission completes with the whole floor known and names the lost robot; all are free."""
    async with robots(app_bus, ["r1", "r2"]) as found:
        mission = await _plan(app_bus, area, await _allocate(app_bus, "m1", 2))
        async with listening(app_bus, [perform_exploration]):
            await found["r1"].aclose()
            await fleet.check_out("r1")
            reply = await request_and_reply(
                get_settings().exploration_stream, "exploration:perform", mission
            )
    assert list(reply["payload"]["lost"]) == ["r1"]
    assert reply["payload"]["distances_m"][1] > 1.0
    assert len(reply["payload"]["maps"]) == 2
    assert not any(robot.holder for robot in await fleet.robots())


async def test_the_planned_paths_are_recorded(app_bus: Bus, area: str) -> None:
    """Each robot with a goal has the way to it, which begins at the robot and leads to the goal."""
    choose_settings(progress_interval_s=0.0)
    async with robots(app_bus, ["r1", "r2"]):
        mission = await _plan(app_bus, area, await _allocate(app_bus, "m1", 2))
        async with listening(app_bus, [perform_exploration]):
            stream = get_settings().exploration_stream
            await request_and_reply(stream, "exploration:perform", mission)
    plans = [
        (robot.pose, robot.plan, robot.goal)
        async for _, frame, _ in read_frames("m1")
        for robot in frame.robots
        if robot.plan
    ]
    assert plans
    for pose, plan, goal in plans:
        assert goal is not None
        assert math.dist((pose.x, pose.y), plan[0]) < 0.02
        assert len(plan) == 12 or math.dist(plan[-1], goal) < 0.2


@pytest.mark.parametrize(
    ("until", "least_s", "most_s"),
    [("time:5.5", 5.5, 5.5), ("battery:99.99", 0.1, 5.0), ("coverage:0.01", 0.0, 0.0)],
)
async def test_an_exploration_ends_when_enough_is_found(
    app_bus: Bus, area: str, until: str, least_s: float, most_s: float
) -> None:
    """It completes with what is known, says which rule it had, and frees its robots."""
    # Half a metre of way uses 0.5 % of a charge, and no battery is full at first.
    choose_settings(battery_per_metre=1.0, charge_per_s=1e6)
    async with robots(app_bus, ["r1", "r2"]):
        mission = await _plan(app_bus, area, await _allocate(app_bus, "m1", 2))
        async with listening(app_bus, [perform_exploration]):
            reply = await request_and_reply(
                get_settings().exploration_stream, "exploration:perform", mission | {"until": until}
            )
    assert least_s <= reply["payload"]["simulated_s"] <= most_s
    assert reply["payload"]["until"] == until
    assert not any(robot.holder for robot in await fleet.robots())


async def test_robots_out_of_reach_are_named(app_bus: Bus, area: str) -> None:
    """Progress and frames say which robots are not heard, until when they count as present."""
    choose_settings(progress_interval_s=0.0)
    stages: list[dict[str, Any]] = []
    async with robots(app_bus, ["r1", "r2"]):
        mission = await _plan(app_bus, area, await _allocate(app_bus, "m1", 2))
        async with listening(app_bus, [perform_exploration]):
            stream = get_settings().exploration_stream
            reply = await request_and_reply(
                stream,
                "exploration:perform",
                mission | {"radio": "distance:0"},
                on_progress=stages.append,
            )
    assert reply["payload"]["lost"] == {}
    absent = [
        named
        for stage in stages
        if stage["status"] == "progress"
        for named in stage["payload"].get("out_of_reach", {}).items()
    ]
    assert absent
    for name, times in absent:
        assert name in {"r1", "r2"}
        assert times["missing_at_s"] == times["heard_s"] + 600.0
    frames = [frame async for _, frame, _ in read_frames("m1")]
    assert any(robot.unheard_s > 0.0 for frame in frames for robot in frame.robots)


async def test_robots_say_what_they_do(app_bus: Bus, area: str) -> None:
    """The frames of a mission name each robot's activity."""
    choose_settings(progress_interval_s=0.0)
    async with robots(app_bus, ["r1", "r2"]):
        mission = await _plan(app_bus, area, await _allocate(app_bus, "m1", 2))
        async with listening(app_bus, [perform_exploration]):
            stream = get_settings().exploration_stream
            await request_and_reply(stream, "exploration:perform", mission)
    frames = [frame async for _, frame, _ in read_frames("m1")]
    assert [robot.activity for robot in frames[-1].robots] == ["idle", "idle"]
    assert "exploring" in {robot.activity for frame in frames for robot in frame.robots}


async def test_under_the_quorum_the_exploration_fails(app_bus: Bus, area: str) -> None:
    """The error says how many robots are left and needed, and which was lost."""
    choose_settings(quorum=1.0)
    async with robots(app_bus, ["r1", "r2"]) as found:
        mission = await _plan(app_bus, area, await _allocate(app_bus, "m1", 2))
        async with listening(app_bus, [perform_exploration]):
            await found["r2"].aclose()
            await fleet.check_out("r2")
            with pytest.raises(RequestFailed, match="1 of 2 robots are left, 2 are") as caught:
                await request_and_reply(
                    get_settings().exploration_stream, "exploration:perform", mission
                )
    assert caught.value.error_type == "TooFewLeft"
    assert "r2" in caught.value.message


async def test_a_takeover_continues_the_exploration(app_bus: Bus, area: str) -> None:
    """The next handler continues from the checkpoint: simulated time does not restart."""
    choose_settings(checkpoint_s=0.01, progress_interval_s=0.01)
    stages: list[dict[str, Any]] = []
    stop = asyncio.Event()

    def note(stage: dict[str, Any]) -> None:
        stages.append(stage)
        if stage["status"] == "progress" and "checkpoint" in stage["payload"]:
            stop.set()

    async with robots(app_bus, ["r1"]):
        mission = await _plan(app_bus, area, await _allocate(app_bus, "m1", 1))
        asking = asyncio.create_task(
            request_and_reply(
                get_settings().exploration_stream,
                "exploration:perform",
                mission,
                on_progress=note,
            )
        )
        async with listening(app_bus, [perform_exploration], lease_s=1.0, drain_s=0.01):
            await stop.wait()
        async with listening(app_bus, [perform_exploration], lease_s=1.0):
            reply = await asking
    epochs = {int(stage["epoch"]) for stage in stages}
    assert len(epochs) == 2
    before = [s["payload"]["simulated_s"] for s in stages if s["status"] == "progress"]
    assert before == sorted(before)
    assert reply["payload"]["lost"] == {}
    assert reply["payload"]["distances_m"][0] == pytest.approx(
        stages[-2]["payload"]["robots"]["r1"]["driven_m"], abs=0.01
    )
