"""Robots that speak VDA 5050, over a real broker: orders of missions, and what may go wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.config import choose_settings
from app.exploration.driver import DriveReport
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.robots.order_executor import DriveOrder
from app.robots.process import deploy_simulated
from app.robots.vda5050.agv_executor import AgvExecutor
from sagastream import Bus
from tests.mosquitto import Mosquitto
from tests.vda5050_fleet import running_fleet

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
