"""Whole explorations with robots that speak VDA 5050, alone and with robots of the other kind."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.exploration.grid import FloorMap
from app.robots import fleet
from app.robots.process import RobotService
from sagastream import Bus
from tests.listeners import listening
from tests.mosquitto import Mosquitto
from tests.vda5050_fleet import (
    all_present,
    assert_as_in_process,
    explore,
    keep_in,
    running_fleet,
    witnessing,
)

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(180)]


@pytest.mark.parametrize("count", [1, 4, 20])
async def test_a_mission_over_mqtt_gives_the_map_of_one_in_process(
    app_bus: Bus, mission_floor: FloorMap, mosquitto: Mosquitto, count: int
) -> None:
    """With versions 2.1 and 3.0 mixed; and every message of both sides satisfies its schema."""
    specs = [f"acme/agv-{n:02}@{'2.1' if n % 2 else '3.0'}" for n in range(count)]
    async with (
        witnessing(mosquitto.port) as witness,
        running_fleet(specs, bus=app_bus) as (
            adapter,
            agvs,
        ),
    ):
        await all_present(adapter.names)
        result = await explore(app_bus, count)
        await assert_as_in_process(result, mission_floor)
        assert all(agv.book.idle for agv in agvs), "no order is left over"
    assert witness.complaints == []
    for version in ("2.1", "3.0")[: count + 1 - (count == 1)]:
        for topic in ("order", "instantActions", "state", "connection", "factsheet", "scan"):
            if count > 1 or version == "3.0":
                assert witness.seen[version, topic] > 0
    assert not any(robot.holder for robot in await fleet.robots())


async def test_a_team_may_mix_both_kinds_of_robots(app_bus: Bus, mission_floor: FloorMap) -> None:
    """The map is the same again, whichever robot has which slot."""
    async with AsyncExitStack() as stack:
        adapter, _ = await stack.enter_async_context(
            running_fleet(["acme/agv-1@3.0", "acme/agv-2@2.0"], bus=app_bus)
        )
        for name in ("robot-01", "robot-02"):
            await fleet.check_in(name)
            handlers = RobotService(name).handlers()
            await stack.enter_async_context(listening(app_bus, handlers, drain_s=0.1))
        checking = asyncio.create_task(keep_in(["robot-01", "robot-02"]))
        stack.callback(checking.cancel)
        await all_present([*adapter.names, "robot-01", "robot-02"])
        result = await explore(app_bus, 4)
        assert result["robots"] == ["acme.agv-1", "acme.agv-2", "robot-01", "robot-02"]
        await assert_as_in_process(result, mission_floor)
