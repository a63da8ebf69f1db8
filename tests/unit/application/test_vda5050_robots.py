"""Robots that speak VDA 5050, over a real broker: orders of missions, and what may go wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app import config
from app.cli.main import app
from app.config import choose_settings, get_settings
from app.exploration.driver import DriveReport, Pose, StartError
from app.exploration.map_files import MapError, save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.robots import fleet
from app.robots.fleet import TooFewRobots
from app.robots.order_executor import DriveOrder
from app.robots.process import deploy_simulated
from app.robots.vda5050.agv_executor import AgvExecutor
from app.robots.vda5050.drive_watch import number
from app.robots.vda5050.vehicle import RobotFailed
from sagastream import Bus
from tests.mosquitto import Mosquitto
from tests.polling import eventually
from tests.vda5050_fleet import all_present, running_fleet

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(120)]


@pytest.fixture
def area(app_bus: Bus, mosquitto: Mosquitto, tmp_path: Path) -> str:
    """A floor of four rooms; robots answer soon."""
    floor = draw_rooms(4)
    save_map(tmp_path / "room.yaml", floor.grid, floor.frame)
    choose_settings(
        map_dir=tmp_path, vda5050_broker_url=mosquitto.url, vda5050_resend_s=0.3, robot_timeout_s=20
    )
    return "room"


def _order(area: str, slot: int = 0, team: int = 1, seed: int = 1) -> dict[str, Any]:
    return {
        "mission": "m1",
        "area": area,
        "slot": slot,
        "team": team,
        "seed": seed,
        "commander": "plan",
        "epoch": 1,
    }


def _drive(number: int, path: Sequence[tuple[float, float]], until: float) -> DriveOrder:
    return DriveOrder(path=path, until=until, request_id=f"d{number}", commander="explore", epoch=1)


async def _ignore(_condition: str) -> None:
    pass


def assert_same(report: DriveReport, expected: DriveReport) -> None:
    """Assert that two reports are equal, to the last bit but for the metres."""
    assert report.pose == expected.pose
    assert report.path == expected.path
    assert (report.reached, report.arrived, report.blocked, report.time) == (
        expected.reached,
        expected.arrived,
        expected.blocked,
        expected.time,
    )
    assert report.distance == pytest.approx(expected.distance)
    assert report.patch.box == expected.patch.box
    assert np.array_equal(report.patch.cells, expected.patch.cells)


@pytest.mark.parametrize("version", ["2.0", "2.1", "3.0"])
async def test_drives_are_those_of_a_robot_in_this_process(
    area: str, mosquitto: Mosquitto, version: str
) -> None:
    """A cut at the barrier, an arrival, a wait, and a wall in the way."""
    driver, frame, first = deploy_simulated(_order(area))
    x, y = first.pose.x, first.pose.y
    drives = [
        ([(x + 0.7, y), (x + 0.7, y + 0.6), (x, y + 0.6)], 2.7),
        ([(x + 0.7, y + 0.6), (x, y + 0.6)], 8.0),
        ([], 10.0),
        ([(x, y)], 11.2),
        ([(x, y), (x + 30.0, y)], 60.0),
        ([(x, y + 0.3)], 61.0),
    ]
    async with running_fleet([f"acme/agv-1@{version}"]) as (adapter, _agvs):
        executor = AgvExecutor(adapter.vehicle("acme.agv-1"))
        found = await executor.deploy(_order(area), "deploy")
        assert found[0] == frame
        assert_same(found[1], first)
        blocked = []
        for number, (path, until) in enumerate(drives):
            report = await executor.drive(_drive(number, path, until), _ignore)
            assert_same(report, driver.drive(path, until))
            blocked.append(report.blocked)
        assert blocked == [False, False, False, False, True, False]
        assert np.array_equal((await executor.report()).patch.cells, driver.recall().patch.cells)


async def test_what_a_mission_cannot_use_is_refused_before_it_drives(
    area: str, mosquitto: Mosquitto
) -> None:
    """Another map, too wide a robot, short or numerical ids, unknown poses; each says why."""
    async with running_fleet(["acme/agv-1@2.1"]) as (adapter, [agv]):
        vehicle = adapter.vehicle("acme.agv-1")
        executor = AgvExecutor(vehicle)
        with pytest.raises(StartError, match="known poses only"):
            await executor.deploy(_order(area) | {"known_poses": False}, "d1")
        with pytest.raises(MapError, match="nowhere"):
            await executor.deploy(_order("nowhere"), "d2")
        failed = await vehicle.act(
            "initializePosition",
            "d3",
            {"x": -5.0, "y": -5.0, "theta": 0.0, "mapId": area, "lastNodeId": "", "seed": 1},
            timeout=10,
        )
        assert failed.action_status == "FAILED"
        assert "does not fit at" in (failed.action_result or "")
        sheet = vehicle.factsheet
        assert sheet is not None
        for part, change, complaint in (
            ("physical_parameters", {"width": 0.9}, "0.9 m wide, missions plan for 0.4 m"),
            ("protocol_limits.maximum_string_lengths", {"maximum_id_length": 16}, "16 characters"),
            ("protocol_limits.maximum_string_lengths", {"id_numerical_only": True}, "numbers"),
            ("protocol_features", {"actions": ()}, "localized on 'no map', not on 'room'"),
        ):
            vehicle.factsheet = _changed(sheet, part.split("."), change)
            with pytest.raises(StartError, match=complaint):
                await executor.deploy(_order(area), "d4")
        assert agv.state().position is None


@pytest.mark.parametrize("place", [(-50.0, 1.0), (1.0, 1e6), (1e308, 1.0)])
async def test_a_robot_that_says_it_is_beside_the_map_is_refused_before_it_drives(
    area: str, mosquitto: Mosquitto, place: tuple[float, float]
) -> None:
    """A mission could not plan for it; the line names the place and the map."""
    async with running_fleet(["acme/agv-1"]) as (adapter, [agv]):
        vehicle = adapter.vehicle("acme.agv-1")
        executor = AgvExecutor(vehicle)
        await executor.deploy(_order(area), "d1")
        assert agv._robot is not None
        agv._robot._pose = Pose(*place)
        agv.touch()
        await eventually(
            lambda: (
                vehicle.state and vehicle.state.position and vehicle.state.position.x == place[0]
            ),
            within_s=5,
            why="the place is reported",
        )
        sheet = vehicle.factsheet
        assert sheet is not None
        vehicle.factsheet = _changed(sheet, ["protocol_features"], {"actions": ()})
        with pytest.raises(RobotFailed, match="which is outside the map 'room'"):
            await executor.deploy(_order(area), "d2")


async def test_errors_of_a_robot_and_counts_from_it_have_a_bound(
    area: str, mosquitto: Mosquitto
) -> None:
    """Malformed messages do not make its state grow, and a count with many digits is none."""
    async with running_fleet(["acme/agv-1"]) as (_, [agv]):
        for _ in range(50):
            agv.receive("order", b"{")
        assert len(agv.errors) == 10
    assert number("12") == 12
    assert [number(text) for text in (None, "", "-1", "9" * 5000, "1.5")] == [None] * 5


def _changed(model: Any, path: list[str], change: dict[str, Any]) -> Any:
    if not path:
        return model.model_copy(update=change)
    part = _changed(getattr(model, path[0]), path[1:], change)
    return model.model_copy(update={path[0]: part})


async def test_a_mission_with_unknown_poses_reserves_none_of_them(
    app_bus: Bus, area: str, mosquitto: Mosquitto
) -> None:
    """It says so, and another mission may have them."""
    async with running_fleet(["acme/agv-1"], bus=app_bus) as (adapter, _):
        await all_present(adapter.names)
        with pytest.raises(TooFewRobots, match=r"1 unavailable.*acme\.agv-1: it needs known poses"):
            await fleet.reserve("m1", 1, known_poses=False)
        names, _writes = await fleet.reserve("m1", 1)
        assert names == ["acme.agv-1"]


@pytest.mark.parametrize(
    ("environment", "arguments", "complaint"),
    [
        ({}, ["acme/a"], "VDA5050_BROKER_URL: not set"),
        ({"VDA5050_BROKER_URL": "mqtt://h"}, ["acme"], "'acme' is not manufacturer/serialNumber"),
        ({"VDA5050_BROKER_URL": "mqtt://h"}, ["acme/a@4.0"], "version '4.0' is not one of 3.0"),
        ({"VDA5050_BROKER_URL": "amqp://h"}, ["acme/a"], "VDA5050_BROKER_URL: must be mqtt://"),
        (
            {"VDA5050_BROKER_URL": "mqtts://h", "VDA5050_CA_FILE": "/none.pem"},
            ["acme/a"],
            "VDA5050_CA_FILE: /none.pem",
        ),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    environment: dict[str, str],
    arguments: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the variable or the argument."""
    monkeypatch.setattr(config, "_chosen", {})
    get_settings.cache_clear()
    result = CliRunner().invoke(app, ["agv", *arguments], env=environment)
    get_settings.cache_clear()
    assert result.exit_code in {1, 2}
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1
