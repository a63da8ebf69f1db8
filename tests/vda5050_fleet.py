"""A fleet of simulated robots that speak VDA 5050, an adapter, and a witness of all messages."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiomqtt

from app.config import get_settings
from app.robots.vda5050.adapter import Adapter
from app.robots.vda5050.agv_process import AgvSpec, running_agv
from app.robots.vda5050.simulated_agv import SimulatedAgv
from app.robots.vda5050.vehicle import Vehicle
from sagastream import Bus
from tests.listeners import listening
from tests.polling import eventually
from tests.vda5050 import wrong

_TOPICS = frozenset({"order", "instantActions", "state", "connection", "factsheet"})


async def heard(vehicle: Vehicle) -> None:
    """Wait until an adapter has heard all of a robot."""
    await eventually(
        lambda: vehicle.state and vehicle.factsheet and vehicle.connection == "ONLINE",
        within_s=10,
        why="the robot is heard",
    )


@asynccontextmanager
async def running_adapter(
    specs: Sequence[str], *, bus: Bus | None = None, lease_s: float = 10.0
) -> AsyncIterator[Adapter]:
    """Run an adapter that hears robots; with a bus it serves their command streams, too."""
    robots = [AgvSpec.parse(each).robot for each in specs]
    adapter = Adapter(get_settings(), robots)
    async with AsyncExitStack() as stack:
        running = [asyncio.create_task(adapter.client.run())]
        try:
            for robot in robots:
                await heard(adapter.vehicle(robot.name))
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
