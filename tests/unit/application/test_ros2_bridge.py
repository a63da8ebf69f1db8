"""Scans of robots that come by ROS 2 topics, and the map of missions as a ROS 2 topic.

No robot with ROS 2 is at hand: simulated robots in another process publish their sensors as such a
robot does, by Zenoh.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from zenoh import ext

from app import config
from app.cli.main import app
from app.config import get_settings
from app.exploration.grid import FloorMap, GridFrame
from app.exploration.simulation.simulate import simulate
from app.export import ros_messages as ros
from app.export.ros_messages import RosMessage, serialized, typestore
from app.robots.codecs import decode_patch
from app.robots.vda5050.agv_executor import AgvExecutor
from app.robots.vda5050.agv_process import AgvSpec, running_agv
from app.ros2.map_publisher import MapPublisher
from app.ros2.zenoh_session import ZenohSession
from sagastream import Bus, RequestFailed
from tests.mosquitto import Mosquitto
from tests.polling import eventually
from tests.vda5050_fleet import (
    all_present,
    drive_order,
    explore,
    free_path,
    ignore,
    running_adapter,
    single_order,
)

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(180)]


def free_endpoint() -> str:
    """An endpoint of Zenoh on a free port of the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def _running(arguments: Sequence[str], mosquitto: Mosquitto, log: Path) -> Iterator[Any]:
    """Run a `mission` command until the context ends; it must have printed a line before."""
    environment = os.environ | {
        "VDA5050_BROKER_URL": mosquitto.url,
        "MAP_DIR": str(get_settings().map_dir),
        "OTEL_SDK_DISABLED": "true",
    }
    command = [sys.executable, "-m", "app.cli", *arguments]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert "Ctrl-C" in line, log.read_text()
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


async def test_robots_explore_with_scans_that_come_only_over_ros_2(
    app_bus: Bus, mission_floor: FloorMap, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Two robots, of two versions, in their own process; the bridge in another one."""
    endpoint = free_endpoint()
    robots = ["acme/agv-1@3.0", "acme/agv-2@2.1"]
    bridge = ["ros2", "acme/agv-1=agv_1", "acme/agv-2=agv_2", "--zenoh", endpoint]
    with (
        _running(["agv", *robots, "--ros2", endpoint], mosquitto, tmp_path / "agv.log"),
        _running(bridge, mosquitto, tmp_path / "bridge.log"),
    ):
        async with running_adapter(robots, bus=app_bus, within_s=30) as adapter:
            await all_present(adapter.names)
            for robot in adapter.names:
                sheet = adapter.vehicle(robot).factsheet
                assert sheet is not None
                assert sheet.action("scan") is None
                assert sheet.action("resendScans") is None
            result = await explore(app_bus, 2)
    assert result["lost"] == {}
    expected = simulate(mission_floor, 2, 1)
    for encoded, layer in zip(result["maps"], expected.layers, strict=True):
        patch = await decode_patch(encoded)
        found = np.zeros_like(layer)
        found[patch.box.slices] = patch.cells
        # Both have seen the same floor, on ways that need not be equal.
        both = (found != 0) & (layer != 0)
        assert both.sum() > 0.5 * (layer != 0).sum()
        assert ((found > 0) == (layer > 0))[both].mean() > 0.98


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name robots whose scans are needed, or give --map"),
        (["acme"], "'acme' is not manufacturer/serialNumber"),
        (["acme/a", "--mission", "x"], "--mission: needs --map"),
        (["acme/a", "--zenoh", "nowhere"], "Zenoh: nowhere:"),
        (["acme/a"], "VDA5050_BROKER_URL: not set"),
    ],
)
def test_a_bridge_that_cannot_run_says_so_in_one_line(
    arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is a usage error."""
    environment = {} if "not set" in text else {"VDA5050_BROKER_URL": "mqtt://h"}
    monkeypatch.setattr(config, "_chosen", {})
    get_settings.cache_clear()
    result = CliRunner().invoke(app, ["ros2", *arguments], env=environment)
    get_settings.cache_clear()
    assert result.exit_code == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


async def test_a_mission_in_which_nobody_sees_is_refused_before_it_drives(
    app_bus: Bus, mission_floor: FloorMap, mosquitto: Mosquitto
) -> None:
    """The line names the robots and the fix."""
    del mosquitto
    async with AsyncExitStack() as stack:
        spec = AgvSpec.parse("acme/agv-1")
        await stack.enter_async_context(running_agv(spec, sensor=lambda _scan: None))
        adapter = await stack.enter_async_context(running_adapter(["acme/agv-1"], bus=app_bus))
        await all_present(adapter.names)
        with pytest.raises(RequestFailed, match=r"no scan has come from acme\.agv-1.*mission ros2"):
            await explore(app_bus, 1)


async def test_a_bridge_that_comes_in_the_middle_of_a_mission_is_found(
    app_bus: Bus, mission_floor: FloorMap, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """The robot adds to the map from its next drive on; without a bridge it drives all the same."""
    endpoint = free_endpoint()
    with _running(["agv", "acme/agv-1", "--ros2", endpoint], mosquitto, tmp_path / "agv.log"):
        async with running_adapter(["acme/agv-1"], within_s=30) as adapter:
            executor = AgvExecutor(adapter.vehicle("acme.agv-1"))
            _, first = await executor.deploy(single_order(), "deploy")
            path = free_path(first)
            alone = await executor.drive(drive_order("d0", path, 1.0), ignore)
            assert alone.distance == pytest.approx(0.5)
            assert alone.patch.cells.size == 0
            bridge = ["ros2", "acme/agv-1=agv_1", "--zenoh", endpoint]
            with _running(bridge, mosquitto, tmp_path / "bridge.log"):
                numbers = itertools.count(1)

                async def sees() -> bool:
                    number = next(numbers)
                    order = drive_order(f"d{number}", path, 1.0 + number)
                    return (await executor.drive(order, ignore)).patch.cells.size > 0

                await eventually(sees, within_s=30, why="its scans are in the map")
            await executor.halt()


def _map(number: int) -> RosMessage:
    grid = np.full((3, 4), number, np.int8)
    return serialized(
        "/map", number, ros.occupancy_grid(number, "map", grid, GridFrame(3, 4, 0.05))
    )


async def test_the_map_reaches_both_kinds_of_ros_2_nodes() -> None:
    """Those of rmw_zenoh, with type, hash and attachment, and those behind a bridge to DDS."""
    endpoint = free_endpoint()
    plain: list[bytes] = []
    rmw: list[Any] = []
    with ZenohSession([], listen=[endpoint]) as robot:
        key = "7/map/nav_msgs::msg::dds_::OccupancyGrid_/RIHS01_8d348150c12913a31ee0ec170fbf25089e4745d17035792a1ba94d6f0bc0cfc7"
        subscribers = [
            robot._session.declare_subscriber("map", lambda s: plain.append(s.payload.to_bytes())),
            robot._session.declare_subscriber(key, rmw.append),
        ]
        with ZenohSession([endpoint], domain=7) as session:
            publisher = MapPublisher(session)
            publisher.begin_mission()
            publisher.publish([_map(1)])

            async def sent() -> bool:
                publisher.publish([_map(2), serialized("/tf", 2, ros.transforms(2, []))])
                return len(plain) > 0 and len(rmw) > 0

            await eventually(sent, within_s=10, why="both have the map")
        assert len(subscribers) == 2
    message: Any = typestore().deserialize_cdr(plain[-1], "nav_msgs/msg/OccupancyGrid")
    assert message.data.tolist() == [2] * 12
    kinds: Any = tuple[ext.Int64, ext.Int64, bytes]
    number, stamp, gid = ext.z_deserialize(kinds, rmw[-1].attachment)
    assert number > 0
    assert abs(stamp - time.time_ns()) < 60e9
    assert len(gid) == 16
