"""A fleet of simulated robots that speak VDA 5050, an adapter, and a witness of all messages."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
import numpy as np
import pytest

from app.command_handlers.handlers.allocate_resources import allocate_resources
from app.command_handlers.handlers.perform_exploration import perform_exploration
from app.command_handlers.handlers.plan_route import plan_route
from app.config import get_settings
from app.exploration.driver import DriveReport, Point
from app.exploration.grid import FloorMap
from app.exploration.simulation.simulate import simulate
from app.redis_utils import request_and_reply
from app.robots import fleet
from app.robots.codecs import decode_patch
from app.robots.order_executor import DriveOrder
from app.robots.process import deploy_simulated
from app.robots.vda5050.adapter import Adapter
from app.robots.vda5050.agv_process import AgvSpec, running_agv
from app.robots.vda5050.simulated_agv import SimulatedAgv
from app.robots.vda5050.vehicle import Vehicle
from sagastream import Bus
from tests.listeners import listening
from tests.polling import eventually
from tests.vda5050 import wrong

_TOPICS = frozenset({"order", "instantActions", "state", "connection", "factsheet"})


async def heard(vehicle: Vehicle, within_s: float = 10) -> None:
    """Wait until an adapter has heard all of a robot."""
    await eventually(
        lambda: vehicle.state and vehicle.connection == "ONLINE",
        within_s=within_s,
        why="the robot is heard",
    )


@asynccontextmanager
async def running_adapter(
    specs: Sequence[str],
    *,
    bus: Bus | None = None,
    lease_s: float = 10.0,
    within_s: float = 10.0,
) -> AsyncIterator[Adapter]:
    """Run an adapter that hears robots; with a bus it serves their command streams, too."""
    robots = [AgvSpec.parse(each).robot for each in specs]
    adapter = Adapter(get_settings(), robots)
    async with AsyncExitStack() as stack:
        running = [asyncio.create_task(adapter.client.run())]
        try:
            for robot in robots:
                await heard(adapter.vehicle(robot.name), within_s)
            if bus:
                running.append(asyncio.create_task(adapter.keep_checking_in()))
                serving = listening(bus, adapter.handlers(), drain_s=0.1, lease_s=lease_s)
                await stack.enter_async_context(serving)
            yield adapter
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)


@asynccontextmanager
async def running_fleet(
    specs: Sequence[str], *, pace: float = 0.0, bus: Bus | None = None
) -> AsyncIterator[tuple[Adapter, list[SimulatedAgv]]]:
    """Run simulated robots, and an adapter that hears them."""
    async with AsyncExitStack() as stack:
        agvs = [
            await stack.enter_async_context(running_agv(AgvSpec.parse(each), pace=pace))
            for each in specs
        ]
        adapter = await stack.enter_async_context(running_adapter(specs, bus=bus))
        yield adapter, agvs


@dataclass
class Witness:
    """All messages of a broker.

    Attributes:
        seen: How many messages of each topic there were, by version and last level.
        complaints: What the official schemas say against them.
    """

    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def note(self, topic: str, payload: bytes) -> None:
        """Check a message."""
        name = topic.rpartition("/")[2]
        version = json.loads(payload)["version"][:3]
        self.seen[version, name] += 1
        if name in _TOPICS:
            self.complaints += wrong(version, name, payload)


@asynccontextmanager
async def witnessing(port: int) -> AsyncIterator[Witness]:
    """Check every message that a broker passes on while the context is open."""
    witness = Witness()
    ready = asyncio.Event()

    async def watch() -> None:
        async with aiomqtt.Client("127.0.0.1", port, identifier="witness") as client:
            await client.subscribe("#")
            ready.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                witness.note(str(message.topic), message.payload)

    watching = asyncio.create_task(watch())
    try:
        await ready.wait()
        yield witness
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def all_present(names: Sequence[str]) -> None:
    """Wait until robots are present in the fleet."""

    async def there() -> bool:
        return {robot.name for robot in await fleet.robots() if robot.present} >= set(names)

    await eventually(there, within_s=10, why="all robots are present")


async def explore(
    bus: Bus,
    count: int,
    seed: int = 1,
    on_progress: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
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
            settings.exploration_stream,
            "exploration:perform",
            mission,
            timeout=150,
            on_progress=on_progress,
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


async def keep_in(names: Sequence[str]) -> None:
    """Check robots in until cancelled."""
    while True:
        for name in names:
            await fleet.check_in(name)
        await asyncio.sleep(1)


def single_order() -> dict[str, Any]:
    """The fields of an order for the only robot of mission m1."""
    return {
        "mission": "m1",
        "area": "room",
        "slot": 0,
        "team": 1,
        "seed": 1,
        "commander": "plan",
        "epoch": 1,
    }


def free_path(first: DriveReport) -> list[Point]:
    """A path of some metres that is not blocked, from where a robot was deployed."""
    x, y = first.pose.x, first.pose.y
    for path in ([(x + 2.0, y)], [(x - 2.0, y)], [(x, y + 2.0)], [(x, y - 2.0)]):
        robot, _, _ = deploy_simulated(single_order())
        if robot.drive(path, 60.0).arrived:
            return [*path, (x, y)] * 4
    raise AssertionError("no free path")


def drive_order(request_id: str, path: list[Point], until: float) -> DriveOrder:
    """A drive of that mission."""
    return DriveOrder(path=path, until=until, request_id=request_id, commander="explore", epoch=1)


async def ignore(_condition: str) -> None:
    """Take what holds a robot up, and do nothing."""
