"""Missions live in Foxglove: an independent client sees channels, schemas, maps and poses."""

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcap_ros2._dynamic import generate_dynamic
from typer.testing import CliRunner
from websockets.asyncio.client import ClientConnection, connect

from app.cli.main import app
from app.export.foxglove_server import FoxgloveServer
from app.export.live_missions import LiveMissions
from app.export.ros_messages import RosMessage
from app.missions.mission_saga import mission_runner
from sagastream import Bus
from tests.made_missions import MISSION, make_frame, record_frames, start_mission
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(60)]

_NOW_MS = 2_000_000_000_000


class _Viewer:
    """A client of the protocol `foxglove.sdk.v1`, which subscribes to every channel.

    Attributes:
        channels: What the server has advertised, by topic.
        last: The last message of each topic, decoded by the advertised schema.
        times: The times of all messages, nanoseconds.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.channels: dict[str, dict[str, Any]] = {}
        self.last: dict[str, Any] = {}
        self.times: list[int] = []
        self._socket = socket
        self._topics: dict[int, str] = {}

    async def read(self) -> None:
        async for received in self._socket:
            if isinstance(received, bytes):
                code, number, time_ns = struct.unpack_from("<BIQ", received)
                if code == 1:
                    self._decode(self._topics[number], time_ns, received[13:])
                continue
            message = json.loads(received)
            if message["op"] == "advertise":
                await self._subscribe(message["channels"])
            if message["op"] == "status" and "Unknown channel ID: " in message["message"]:
                # The server names a channel a moment before it takes subscriptions to it.
                again = int(message["message"].rpartition(" ")[2])
                await self._subscribe([c for c in self.channels.values() if c["id"] == again])
            if message["op"] == "unadvertise":
                gone = set(message["channelIds"])
                self.channels = {
                    topic: each for topic, each in self.channels.items() if each["id"] not in gone
                }

    async def _subscribe(self, channels: list[dict[str, Any]]) -> None:
        for each in channels:
            self.channels[each["topic"]] = each
            self._topics[each["id"]] = each["topic"]
        subscriptions = [{"id": each["id"], "channelId": each["id"]} for each in channels]
        await self._socket.send(json.dumps({"op": "subscribe", "subscriptions": subscriptions}))

    def _decode(self, topic: str, time_ns: int, data: bytes) -> None:
        channel = self.channels[topic]
        assert (channel["encoding"], channel["schemaEncoding"]) == ("cdr", "ros2msg")
        decoders = generate_dynamic(channel["schemaName"], channel["schema"])
        self.last[topic] = decoders[channel["schemaName"]](data)
        self.times.append(time_ns)


@asynccontextmanager
async def _viewing(port: int) -> AsyncIterator[_Viewer]:
    url = f"ws://127.0.0.1:{port}"
    async with connect(url, subprotocols=["foxglove.sdk.v1"], max_size=None) as socket:  # type: ignore[list-item]
        viewer = _Viewer(socket)
        reading = asyncio.create_task(viewer.read())
        try:
            yield viewer
        finally:
            reading.cancel()


@pytest.fixture
def foxglove_server() -> Iterator[FoxgloveServer]:
    """A server on a free port."""
    server = FoxgloveServer(0)
    yield server
    server.stop()


@asynccontextmanager
async def _live(server: FoxgloveServer, saga_id: str = "") -> AsyncIterator[None]:
    following = asyncio.create_task(LiveMissions(server, saga_id).run())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait([following])


def _has_map(viewer: _Viewer, cells: bytes) -> bool:
    shown = viewer.last.get("/map")
    return shown is not None and struct.pack(f"{len(shown.data)}b", *shown.data) == cells


async def test_a_client_sees_the_map_grow(app_bus: Bus, foxglove_server: FoxgloveServer) -> None:
    """Given a running mission, then early and late clients see its map, its robots and its log."""
    await start_mission()
    frames = [make_frame(1), make_frame(2)]
    async with _live(foxglove_server), _viewing(foxglove_server.port) as early:
        await record_frames(app_bus, frames, at_ms=_NOW_MS)
        cells = frames[-1].cells.tobytes()
        await eventually(lambda: _has_map(early, cells), within_s=10, why="the map is seen")
        async with _viewing(foxglove_server.port) as late:
            await eventually(
                lambda: _has_map(late, cells) and "/robot_02/pose" in late.last,
                within_s=10,
                why="a late client sees the last messages",
            )
            assert early.times == sorted(early.times)
            assert late.last["/robot_02/pose"].pose.position.x == 2.0
            assert late.channels["/map"]["schemaName"] == "nav_msgs/msg/OccupancyGrid"
            assert {"/tf", "/mission/log", "/mission/frontiers", "/robot_01/path"} <= set(late.last)


async def test_the_newest_mission_is_shown(app_bus: Bus, foxglove_server: FoxgloveServer) -> None:
    """Given a second mission with other robots, then its channels replace those of the first."""
    await start_mission()
    await record_frames(app_bus, [make_frame(1)], at_ms=_NOW_MS)
    async with _live(foxglove_server), _viewing(foxglove_server.port) as viewer:
        await eventually(lambda: "/robot_01/pose" in viewer.last, within_s=10, why="one is seen")
        await start_mission("mission-two")
        frame = make_frame(3, ("agv",))
        await record_frames(app_bus, [frame], at_ms=_NOW_MS + 1, mission="mission-two")
        await eventually(
            lambda: _has_map(viewer, frame.cells.tobytes()), within_s=10, why="the other is seen"
        )
        assert "/agv/pose" in viewer.channels
        assert "/robot_01/pose" not in viewer.channels


async def test_a_mission_that_has_ended_is_shown_by_its_id(
    app_bus: Bus, foxglove_server: FoxgloveServer
) -> None:
    """Given the id of a mission that has ended, then it is shown whatever else runs."""
    await start_mission()
    frame = make_frame(2)
    await record_frames(app_bus, [frame], at_ms=_NOW_MS)
    await mission_runner().compensate(MISSION, "of the test")
    await start_mission("mission-two")
    async with _live(foxglove_server, MISSION), _viewing(foxglove_server.port) as viewer:
        await eventually(
            lambda: _has_map(viewer, frame.cells.tobytes()), within_s=10, why="it is seen"
        )
        assert "/agv/pose" not in viewer.channels


async def test_a_slow_client_delays_nobody(foxglove_server: FoxgloveServer) -> None:
    """Given a client that reads nothing, then 500 MB are published at once, and others see the last."""
    number, size = 1000, 500_000
    schema = "nav_msgs/msg/OccupancyGrid"
    foxglove_server.publish([RosMessage("/map", schema, 1, bytes(4))])
    url = f"ws://127.0.0.1:{foxglove_server.port}"
    async with connect(url, subprotocols=["foxglove.sdk.v1"], max_size=None) as slow:  # type: ignore[list-item]
        await slow.recv()
        channel = json.loads(await slow.recv())["channels"][0]["id"]
        subscription = {"id": 1, "channelId": channel}
        await slow.send(json.dumps({"op": "subscribe", "subscriptions": [subscription]}))
        await slow.recv()
        slow.transport.pause_reading()
        began = time.monotonic()
        for each in range(number):
            foxglove_server.publish([RosMessage("/map", schema, each, bytes(size))])
        assert time.monotonic() - began < 5.0
        slow.transport.abort()


def test_a_taken_port_is_named(foxglove_server: FoxgloveServer) -> None:
    """Given a port that is taken, then the error names it."""
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{foxglove_server.port}"):
        FoxgloveServer(foxglove_server.port)


def test_a_port_that_is_out_of_range_is_refused() -> None:
    """Given no port, then the option is named."""
    result = CliRunner().invoke(app, ["serve", "--foxglove", "70000"])
    assert result.exit_code == 2
    assert "--foxglove" in result.stderr
