"""Other implementations of VDA 5050 on the other side: vda5050-sdk (Python) and vda-5050-lib (node).

They were written by others from the standard. Each drives our simulated robot, and our adapter
drives the robot of each.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from vda5050.client.agv import OrderExecutor, VehicleClient
from vda5050.client.master import MasterClient
from vda5050.config import MasterConfig, VehicleConfig
from vda5050.domain.order.builder import OrderBuilder
from vda5050.model.factsheet import Factsheet as SdkFactsheet
from vda5050.model.order import Node, Order

from app.exploration.driver import DriveReport, Point
from app.exploration.grid import FloorMap
from app.exploration.simulation.simulated_robot import SimulatedRobot
from app.exploration.simulation.start_poses import start_poses
from app.robots.order_executor import DriveOrder
from app.robots.vda5050 import v3
from app.robots.vda5050.agv_executor import AgvExecutor
from app.robots.vda5050.agv_process import AgvSpec, running_agv
from app.robots.vda5050.dialects import DIALECTS
from app.robots.vda5050.order_book import OrderBook
from tests.mosquitto import Mosquitto
from tests.node_peer import install_peer, node_tool
from tests.polling import eventually
from tests.unit.application.test_vda5050_messages import MESSAGES
from tests.vda5050_fleet import running_adapter, witnessing

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(180)]

_PEERS = Path(__file__).parents[2] / "vda5050_peers"
_ORDER: dict[str, Any] = {
    "mission": "m1",
    "area": "room",
    "slot": 0,
    "team": 1,
    "seed": 1,
    "commander": "plan",
    "epoch": 1,
}


def _start(floor: FloorMap) -> Point:
    """A place with half a metre of free floor to the right and above."""
    for seed in range(100):
        pose = start_poses(floor, 1, seed)[0]
        robot = SimulatedRobot(floor, slot=0, seed=0)
        robot.deploy(pose)
        path = [(pose.x + 0.5, pose.y), (pose.x + 0.5, pose.y + 0.5), (pose.x, pose.y)]
        if robot.drive(path, 60.0).arrived:
            return pose.x, pose.y
    raise AssertionError("no such place")


async def test_vda5050_sdk_drives_our_robot(mission_floor: FloorMap, mosquitto: Mosquitto) -> None:
    """Position, order with a horizon, extension of the base, pause, cancel; in version 2.1."""
    x, y = _start(mission_floor)
    config = MasterConfig(broker_url=mosquitto.url, validate_messages=True)
    errors: list[Any] = []
    async with (
        witnessing(mosquitto.port) as witness,
        running_agv(AgvSpec.parse("acme/agv-1@2.1"), pace=5) as agv,
        MasterClient(config) as control,
    ):
        control.on_error(errors.append)
        robot = "acme/agv-1"
        assert await control.wait_for(robot, lambda session: session.connected, timeout=10)
        await control.request_state(robot)
        place = await control.init_position(
            robot, x=x, y=y, theta=0.0, map_id="room", last_node_id="a"
        )
        assert await control.wait_for_action(robot, place, timeout=10)
        order = (
            OrderBuilder(order_id="order-1", manufacturer="acme", serial_number="agv-1")
            .add_node("a", x=x, y=y, map_id="room")
            .add_edge("a", "b")
            .add_node("b", x=x + 0.5, y=y, map_id="room")
            .add_edge("b", "c", released=False)
            .add_node("c", x=x + 0.5, y=y + 0.5, map_id="room", released=False)
            .build()
        )
        result = await control.dispatch(order, robot)
        assert result.accepted, result
        await eventually(lambda: agv.book.last_node_id == "b", within_s=10, why="b is reached")
        assert (agv.state().position.x, agv.state().position.y) == (x + 0.5, y)  # type: ignore[union-attr]
        await control.pause(robot)
        await eventually(lambda: agv.motion.paused, within_s=5, why="it is paused")
        update = (
            OrderBuilder.from_order(order)
            .add_edge("b", "c")
            .add_node("c", x=x + 0.5, y=y + 0.5, map_id="room")
            .add_edge("c", "a")
            .add_node("a", x=x, y=y, map_id="room")
            .build()
        )
        result = await control.dispatch(update, robot)
        assert result.accepted, result
        await eventually(lambda: agv.book.order_update_id == 1, within_s=5, why="it has the update")
        assert agv.book.last_node_id == "b"
        await control.resume(robot)
        await eventually(lambda: agv.book.last_node_id == "c", within_s=10, why="c is reached")
        await control.cancel_order(robot)
        assert await control.wait_for_action(robot, "cancel-order", timeout=10)
        assert agv.book.idle
        session = await control.session(robot)
        assert session.state.order_id == "order-1"
        assert session.state.node_states == []
    assert errors == []
    assert witness.complaints == []


class _SdkExecutor(OrderExecutor):
    """Is at once where it is sent to."""

    def __init__(self, robot: VehicleClient) -> None:
        super().__init__(robot.publisher)
        self._robot = robot

    async def visit_node(self, node: Node) -> None:
        at = node.node_position
        assert at is not None
        self._robot.update_position(
            x=at.x, y=at.y, theta=0.0, map_id=at.map_id, position_initialized=True
        )


async def test_our_adapter_drives_a_robot_of_vda5050_sdk(
    mission_floor: FloorMap, mosquitto: Mosquitto
) -> None:
    """Drives with a horizon are updates of one order; version 2.1; it has no scans."""
    x, y = _start(mission_floor)
    sheet = json.loads(DIALECTS["2.1"].encode(MESSAGES[4]))
    sheet["protocolFeatures"]["agvActions"] = []
    config = VehicleConfig(
        broker_url=mosquitto.url, manufacturer="sdk", serial_number="agv-1", state_interval=1.0
    )
    orders: list[Order] = []
    async with VehicleClient(
        config, factsheet_provider=lambda: SdkFactsheet.model_validate(sheet)
    ) as robot:
        robot.update_position(x=x, y=y, theta=0.0, map_id="room", position_initialized=True)
        executor = _SdkExecutor(robot)

        async def execute(order: Order) -> None:
            orders.append(order)
            await executor.run(order)

        robot.on_order(execute)
        await robot.publish_state()
        await _drive_a_square("sdk/agv-1", x, y)
    assert [(each.order_id, each.order_update_id) for each in orders] == [
        ("explore", 0),
        ("explore", 1),
        ("explore", 2),
    ]


async def _drive_a_square(name: str, x: float, y: float) -> list[DriveReport]:
    """Let the adapter drive a robot that has no scans; its reports say where it came to."""
    async with running_adapter([name], within_s=30) as adapter:
        executor = AgvExecutor(adapter.vehicle(name.replace("/", ".")))
        _, first = await executor.deploy(_ORDER, "deploy")
        assert math.dist((first.pose.x, first.pose.y), (x, y)) < 1e-6
        reports = []
        corners = [(x + 0.5, y), (x + 0.5, y + 0.5), (x, y)]
        for number, (path, until) in enumerate(
            [(corners, 1.6), (corners[1:], 3.0), ([corners[-1]], 6.0)]
        ):
            order = DriveOrder(path, until, f"d{number}", "explore", 1)
            reports.append(await executor.drive(order, _ignore))
        found = [(report.reached, report.arrived, report.blocked) for report in reports]
        assert found == [(1, False, False), (1, False, False), (1, True, False)]
        for report, expected in zip(
            reports,
            [(x + 0.5, y + 0.3), _between((x + 0.5, y + 0.5), (x, y), 0.5), (x, y)],
            strict=True,
        ):
            assert math.dist((report.pose.x, report.pose.y), expected) < 0.1
            assert report.patch.cells.size == 0
        await executor.halt()
    return reports


def _between(start: Point, end: Point, metres: float) -> Point:
    share = metres / math.dist(start, end)
    if share >= 1:
        return end
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


async def _ignore(_condition: str) -> None:
    pass


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vda-5050-lib and the programs that use it."""
    return install_peer(_PEERS, tmp_path_factory.mktemp("peers"))


async def test_vda_5050_lib_drives_our_robot(
    mission_floor: FloorMap,
    mosquitto: Mosquitto,
    node_modules: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Position, order with a horizon, update, and another order; in version 2.0."""
    x, y = _start(mission_floor)
    passed: list[str] = []
    traverse = OrderBook.traverse

    def noted(book: OrderBook) -> v3.Node:
        node = traverse(book)
        passed.append(node.node_id)
        return node

    monkeypatch.setattr(OrderBook, "traverse", noted)
    async with (
        witnessing(mosquitto.port) as witness,
        running_agv(AgvSpec.parse("acme/agv-1@2.0"), pace=5) as agv,
    ):
        process = await asyncio.create_subprocess_exec(
            *(
                node_tool("node"),
                str(node_modules / "fleet_control.js"),
                mosquitto.url,
                str(x),
                str(y),
            ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        found = json.loads(out)
        assert found["initPosition"] == "FINISHED"
        assert [found[name]["withError"] for name in ("base", "update", "next")] == [None] * 3
        assert passed == ["b", "c", "a"]
        # The library reports one node of a state; a state that comes late may be behind two of them.
        assert {"a"} <= {*found["traversed"]} <= {"a", "b", "c"}
        assert agv.book.order_id == "order-2"
        assert agv.book.idle
    assert [each for each in witness.complaints if "actionName" not in each] == []


async def test_our_adapter_drives_a_robot_of_vda_5050_lib(
    mission_floor: FloorMap, mosquitto: Mosquitto, node_modules: Path
) -> None:
    """In version 2.0; it drives in real time, ten times as fast, and has no scans."""
    x, y = _start(mission_floor)
    async with _virtual_robot(node_modules, mosquitto, x, y):
        await _drive_a_square("siemens/virtual-1", x, y)


@asynccontextmanager
async def _virtual_robot(
    node_modules: Path, mosquitto: Mosquitto, x: float, y: float
) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *(node_tool("node"), str(node_modules / "robot.js"), mosquitto.url, str(x), str(y)),
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()
