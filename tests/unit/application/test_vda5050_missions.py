"""Whole explorations with robots that speak VDA 5050, alone and with robots of the other kind."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.command_handlers.handlers.allocate_resources import allocate_resources
from app.command_handlers.handlers.perform_exploration import perform_exploration
from app.command_handlers.handlers.plan_route import plan_route
from app.config import choose_settings, get_settings
from app.exploration.grid import FloorMap
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.simulate import simulate
from app.redis_utils import request_and_reply
from app.robots import fleet
from app.robots.codecs import decode_patch
from app.robots.process import RobotService
from sagastream import Bus
from tests.listeners import listening
from tests.mosquitto import Mosquitto, running_mosquitto
from tests.polling import eventually
from tests.vda5050_fleet import running_fleet, witnessing

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(180)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that the test may kill."""
    with running_mosquitto(tmp_path) as made:
        yield made


@pytest.fixture
def floor(app_bus: Bus, broker: Mosquitto, tmp_path: Path) -> FloorMap:
    """A floor that missions may name as `room`."""
    drawn = draw_rooms(6)
    save_map(tmp_path / "room.yaml", drawn.grid, drawn.frame)
    choose_settings(
        map_dir=tmp_path,
        vda5050_broker_url=broker.url,
        vda5050_resend_s=0.5,
        robot_seen_s=3.0,
        progress_interval_s=0.05,
    )
    return drawn


async def _present(names: Sequence[str]) -> None:
    async def all_present() -> bool:
        return {robot.name for robot in await fleet.robots() if robot.present} >= set(names)

    await eventually(all_present, within_s=10, why="all robots are present")


async def explore(bus: Bus, count: int, seed: int = 1) -> dict[str, Any]:
    """Run the first three steps of a mission; return the payload of the last one's reply."""
    settings = get_settings()
    async with listening(bus, [allocate_resources, plan_route, perform_exploration]):
        mission: dict[str, Any] = {"mission": "m1", "area": "room", "seed": seed}
        reply = await request_and_reply(
            settings.resources_stream, "resources:allocate", mission | {"robot_count": count}
        )
        mission |= reply["payload"]
        reply = await request_and_reply(settings.routing_stream, "routing:plan", mission)
        mission |= reply["payload"]
        reply = await request_and_reply(
            settings.exploration_stream, "exploration:perform", mission, timeout=150
        )
    return dict(reply["payload"])


async def assert_as_in_process(result: dict[str, Any], floor: FloorMap, seed: int = 1) -> None:
    """Assert that each robot's map is that of the same mission in one process, cell by cell."""
    expected = simulate(floor, len(result["robots"]), seed)
    assert result["lost"] == {}
    assert result["simulated_s"] == expected.seconds
    assert result["rounds"] == expected.rounds
    assert result["distances_m"] == pytest.approx(expected.distances, abs=0.01)
    for encoded, layer in zip(result["maps"], expected.layers, strict=True):
        patch = await decode_patch(encoded)
        found = np.zeros_like(layer)
        found[patch.box.slices] = patch.cells
        assert np.array_equal(found, layer)


@pytest.mark.parametrize("count", [1, 4, 20])
async def test_a_mission_over_mqtt_gives_the_map_of_one_in_process(
    app_bus: Bus, floor: FloorMap, broker: Mosquitto, count: int
) -> None:
    """With versions 2.1 and 3.0 mixed; and every message of both sides satisfies its schema."""
    specs = [f"acme/agv-{n:02}@{'2.1' if n % 2 else '3.0'}" for n in range(count)]
    async with (
        witnessing(broker.port) as witness,
        running_fleet(specs, bus=app_bus) as (
            adapter,
            agvs,
        ),
    ):
        await _present(adapter.names)
        result = await explore(app_bus, count)
        await assert_as_in_process(result, floor)
        assert all(agv.book.idle for agv in agvs), "no order is left over"
    assert witness.complaints == []
    for version in ("2.1", "3.0")[: count + 1 - (count == 1)]:
        for topic in ("order", "instantActions", "state", "connection", "factsheet", "scan"):
            if count > 1 or version == "3.0":
                assert witness.seen[version, topic] > 0
    assert not any(robot.holder for robot in await fleet.robots())


async def test_a_team_may_mix_both_kinds_of_robots(app_bus: Bus, floor: FloorMap) -> None:
    """The map is the same again, whichever robot has which slot."""
    async with AsyncExitStack() as stack:
        adapter, _ = await stack.enter_async_context(
            running_fleet(["acme/agv-1@3.0", "acme/agv-2@2.0"], bus=app_bus)
        )
        for name in ("robot-01", "robot-02"):
            await fleet.check_in(name)
            handlers = RobotService(name).handlers()
            await stack.enter_async_context(listening(app_bus, handlers, drain_s=0.1))
        checking = asyncio.create_task(_keep_in(["robot-01", "robot-02"]))
        stack.callback(checking.cancel)
        await _present([*adapter.names, "robot-01", "robot-02"])
        result = await explore(app_bus, 4)
        assert result["robots"] == ["acme.agv-1", "acme.agv-2", "robot-01", "robot-02"]
        await assert_as_in_process(result, floor)


async def _keep_in(names: Sequence[str]) -> None:
    while True:
        for name in names:
            await fleet.check_in(name)
        await asyncio.sleep(1)
