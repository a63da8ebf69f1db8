"""Missions with robots that speak VDA 5050 on a bad day: no order twice, none forgotten."""

import asyncio
import contextlib
import itertools
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.config import choose_settings, get_settings
from app.exploration.driver import Point
from app.exploration.grid import FloorMap
from app.robots import fleet
from app.robots.codecs import decode_report
from app.robots.process import RobotService, deploy_simulated
from app.robots.team import Team
from app.robots.vda5050 import v3
from app.robots.vda5050.abilities import limits_of
from app.robots.vda5050.adapter import Adapter
from app.robots.vda5050.agv_executor import AgvExecutor
from app.robots.vda5050.agv_process import AgvSpec, running_agv
from app.robots.vda5050.mqtt_client import BrokerClient
from app.robots.vda5050.route import plan_drive
from app.robots.vda5050.simulated_agv import SimulatedAgv
from app.robots.vda5050.vehicle import RobotFailed
from sagastream import Bus, Command, RequestFailed
from tests.mosquitto import Mosquitto
from tests.polling import eventually
from tests.vda5050_fleet import (
    all_present,
    assert_as_in_process,
    drive_order,
    explore,
    free_path,
    ignore,
    running_adapter,
    running_fleet,
    single_order,
)

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(180)]

_TWO = ("acme/agv-1@3.0", "acme/agv-2@2.1")


class DriveCounter:
    """Counts how often each drive was executed by robots."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        finish = SimulatedAgv._finish_actions

        async def counted(agv: SimulatedAgv, actions: Any) -> None:
            self.counts.update(action.action_id for action in actions)
            await finish(agv, actions)

        monkeypatch.setattr(SimulatedAgv, "_finish_actions", counted)

    def require_once(self) -> None:
        """Assert that there were drives, and each once."""
        assert self.counts
        assert set(self.counts.values()) == {1}


@pytest.fixture
def drives(monkeypatch: pytest.MonkeyPatch) -> DriveCounter:
    """How often each drive was executed."""
    return DriveCounter(monkeypatch)


def after_progress(number: int, act: Callable[[], object]) -> Callable[[dict[str, Any]], None]:
    """Call something at a progress of the exploration; use it as `on_progress`."""
    count = itertools.count(1)

    def on_progress(stage: dict[str, Any]) -> None:
        if stage["status"] == "progress" and next(count) == number:
            act()

    return on_progress


async def test_a_broker_that_is_killed_and_restarted_costs_nothing(
    app_bus: Bus, mission_floor: FloorMap, mosquitto: Mosquitto, drives: DriveCounter
) -> None:
    """It comes back empty, without retained messages; the map is that of a good day."""
    restarts: list[asyncio.Task[None]] = []

    def restart() -> None:
        restarts.append(asyncio.create_task(asyncio.to_thread(mosquitto.restart)))

    async with running_fleet(_TWO, bus=app_bus, pace=60) as (adapter, _):
        await all_present(adapter.names)
        result = await explore(app_bus, 2, on_progress=after_progress(2, restart))
        assert restarts[0].done()
        await assert_as_in_process(result, mission_floor)
    drives.require_once()


async def test_lost_repeated_and_reordered_messages_change_nothing(
    app_bus: Bus,
    mission_floor: FloorMap,
    drives: DriveCounter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of both sides: each tenth is lost, each fourth comes twice, and any may overtake another."""
    dice, late = random.Random(7), set[asyncio.Task[bool]]()
    publish = BrokerClient.publish

    async def unreliably(
        client: BrokerClient, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> bool:
        if qos:
            return await publish(client, topic, payload, qos=qos, retain=retain)
        for _ in range(dice.choices([0, 1, 2], [10, 65, 25])[0]):

            async def later(delay_s: float = dice.uniform(0.0, 0.03)) -> bool:
                await asyncio.sleep(delay_s)
                return await publish(client, topic, payload, qos=qos, retain=retain)

            task = asyncio.create_task(later())
            late.add(task)
            task.add_done_callback(late.discard)
        return True

    choose_settings(vda5050_resend_s=0.05)
    async with running_fleet(_TWO[1:], bus=app_bus) as (adapter, _):
        await all_present(adapter.names)
        monkeypatch.setattr(BrokerClient, "publish", unreliably)
        result = await explore(app_bus, 1)
        monkeypatch.setattr(BrokerClient, "publish", publish)
        await asyncio.gather(*late)
        await assert_as_in_process(result, mission_floor)
    drives.require_once()


class CuttableLink:
    """A link to the broker for one robot, which a test may cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.is_cut = False
        self.port = 0

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self) -> None:
        self.is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()


@asynccontextmanager
async def cuttable(mosquitto: Mosquitto) -> AsyncIterator[CuttableLink]:
    """A link that robots use which are started within the context."""
    link = CuttableLink(mosquitto.port)
    async with await link.serve():
        choose_settings(vda5050_broker_url=f"mqtt://127.0.0.1:{link.port}")
        yield link


async def test_a_connection_that_is_cut_in_an_edge_costs_nothing_if_it_comes_back(
    app_bus: Bus, mission_floor: FloorMap, mosquitto: Mosquitto, drives: DriveCounter
) -> None:
    """The robot drives its base meanwhile; the drive is awaited, and not sent as a new one."""
    conditions: list[str] = []
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(cuttable(mosquitto))
        agv = await stack.enter_async_context(running_agv(AgvSpec.parse(_TWO[0]), pace=20))
        choose_settings(vda5050_broker_url=mosquitto.url)
        adapter = await stack.enter_async_context(running_adapter(_TWO[:1]))
        executor = AgvExecutor(adapter.vehicle("acme.agv-1"))
        _, first = await executor.deploy(single_order(), "deploy")
        path = free_path(first)

        async def note(condition: str) -> None:
            conditions.append(condition)
            if condition:
                await eventually(lambda: not agv._driving, within_s=10, why="the base is driven")
                link.is_cut = False

        task = asyncio.create_task(executor.drive(drive_order("d1", path, 20.0), note))
        await eventually(lambda: agv._driving, within_s=10, why="the robot drives")
        link.cut()
        report = await task
        driver, _, _ = deploy_simulated(single_order())
        expected = driver.drive(path, 20.0)
        assert (report.pose, report.path) == (expected.pose, expected.path)
        assert conditions == ["its connection is broken", ""]
    drives.require_once()


async def test_a_robot_that_is_killed_is_lost_and_the_others_finish(
    app_bus: Bus, mission_floor: FloorMap
) -> None:
    """Its last will tells it; the whole floor is explored, and all robots are free again."""
    choose_settings(robot_seen_s=2.0)
    environment = get_settings().environment()
    command = [sys.executable, "-m", "app.robots.vda5050.agv_process", "--pace", "40", _TWO[0]]
    killed = subprocess.Popen(command, env=environment)  # noqa: ASYNC220 - starts at once
    try:
        async with AsyncExitStack() as stack:
            stayed = await stack.enter_async_context(running_agv(AgvSpec.parse(_TWO[1]), pace=40))
            adapter = await stack.enter_async_context(
                running_adapter(_TWO, bus=app_bus, within_s=60)
            )
            await all_present(adapter.names)
            result = await explore(
                app_bus,
                2,
                on_progress=after_progress(2, lambda: killed.send_signal(signal.SIGKILL)),
            )
            assert list(result["lost"]) == ["acme.agv-1"]
            assert "stopped checking in" in result["lost"]["acme.agv-1"]
            assert result["distances_m"][1] > result["distances_m"][0]
            assert stayed.book.idle
            assert adapter.vehicle("acme.agv-1").connection == "CONNECTION_BROKEN"
            robots = {robot.name: robot for robot in await fleet.robots()}
            assert not any(robot.holder for robot in robots.values())
            assert not robots["acme.agv-1"].present
    finally:
        killed.kill()
        killed.wait()


async def test_a_mission_outlives_its_adapter(
    app_bus: Bus, mission_floor: FloorMap, drives: DriveCounter
) -> None:
    """Another one continues in the middle of drives: the map is that of a good day."""
    choose_settings(robot_seen_s=20.0, lease_s=1.0)
    async with AsyncExitStack() as stack:
        for each in _TWO:
            await stack.enter_async_context(running_agv(AgvSpec.parse(each), pace=60))
        killed = asyncio.Event()
        async with running_adapter(_TWO, bus=app_bus, lease_s=1.0) as adapter:
            await all_present(adapter.names)
            exploring = asyncio.create_task(
                explore(app_bus, 2, on_progress=after_progress(3, killed.set))
            )
            await killed.wait()
        async with running_adapter(_TWO, bus=app_bus, lease_s=1.0):
            result = await exploring
        await assert_as_in_process(result, mission_floor)
    drives.require_once()


async def test_a_stale_adapter_is_refused_by_the_robot(
    app_bus: Bus, mission_floor: FloorMap, drives: DriveCounter
) -> None:
    """Its next update is older than those of the adapter that replaced it."""
    async with running_fleet(_TWO[:1]) as (adapter, [agv]):
        stale = AgvExecutor(adapter.vehicle("acme.agv-1"))
        await stale.deploy(single_order(), "deploy")
        _, _, first = deploy_simulated(single_order())
        path = free_path(first)
        await stale.drive(drive_order("d1", path, 1.0), ignore)
        await stale.settle(("d1", {}))
        async with running_adapter(_TWO[:1]) as other:
            newer = AgvExecutor(other.vehicle("acme.agv-1"))
            assert await newer.resume("another mission") is None
            assert await newer.resume("m1") == ("d1", {})
            report = await newer.drive(drive_order("d2", path, 2.0), ignore)
            for epoch in (1, 2):
                late = replace(drive_order("d3", path, 3.0), epoch=epoch)
                with pytest.raises(RobotFailed, match="another process drives it"):
                    await asyncio.wait_for(stale.drive(late, ignore), 5)
            # Once more, as if it had sent the order before it could know.
            plan = plan_drive(
                replace(stale._journey.route),
                at=(report.pose.x, report.pose.y),
                path=path,
                since=1.0,
                until=3.0,
                map_id="room",
                limits=limits_of(stale._vehicle),
                request_id="d4",
                commander="explore",
                epoch=1,
            )
            await adapter.vehicle("acme.agv-1").send_order(plan.message)
            refused = await eventually(lambda: agv.errors, within_s=5, why="the robot refuses it")
            assert [error.error_type for error in refused] == ["OUTDATED_ORDER_UPDATE"]
            assert (await newer.report()).pose == report.pose
            await newer.drive(drive_order("d5", path, 3.0), ignore)
        assert list(drives.counts) == ["d1", "d2", "d5"]
        assert agv.errors == []
    drives.require_once()


async def test_an_adapter_that_begins_an_order_is_ahead_from_its_second_message_on(
    app_bus: Bus, mission_floor: FloorMap
) -> None:
    """The first one is 0 in the standard; the adapter before may have sent it, too."""
    async with running_fleet(_TWO[:1]) as (adapter, [agv]):
        replaced = AgvExecutor(adapter.vehicle("acme.agv-1"))
        _, first = await replaced.deploy(single_order(), "deploy")
        await replaced.settle(("deploy", {}))
        newer = AgvExecutor(adapter.vehicle("acme.agv-1"))
        assert await newer.resume("m1") == ("deploy", {})
        updates = []
        for number in range(3):
            order = drive_order(f"d{number}", free_path(first), 1.0 + number)
            await newer.drive(order, ignore)
            updates.append(agv.book.order_update_id)
        assert updates == [0, 2**16, 2**16 + 1]


@pytest.mark.parametrize("first", ["replaced", "newer"])
async def test_of_two_adapters_that_begin_the_same_order_the_newer_one_drives_in_the_end(
    app_bus: Bus, mission_floor: FloorMap, drives: DriveCounter, first: str
) -> None:
    """Both first messages have one id and no epoch: neither takes the other's drive for its own."""
    async with running_fleet(_TWO[:1]) as (adapter, [agv]), running_adapter(_TWO[:1]) as other:
        replaced = AgvExecutor(adapter.vehicle("acme.agv-1"))
        _, deployed = await replaced.deploy(single_order(), "deploy")
        await replaced.settle(("deploy", {}))
        newer = AgvExecutor(other.vehicle("acme.agv-1"))
        assert await newer.resume("m1") == ("deploy", {})
        path = free_path(deployed)
        if first == "replaced":
            await replaced.drive(drive_order("old1", path, 1.0), ignore)
        report = await newer.drive(drive_order("new1", path, 1.0), ignore)
        assert report.time == 1.0
        order_id = "explore" if first == "newer" else "explore:2"
        assert agv.book.order_id == order_id
        refused = drive_order("old2", path, 2.0)
        with pytest.raises(RobotFailed, match=r"another process drives it|OUTDATED|OTHER_ORDER"):
            await asyncio.wait_for(replaced.drive(refused, ignore), 5)
        # Nothing that the replaced one does later ends the order of the newer one.
        assert not replaced.abandoned
        await newer.drive(drive_order("new2", path, 2.0), ignore)
        assert agv.book.order_id == order_id
        expected = ["old1"] if first == "replaced" else []
        assert list(drives.counts) == [*expected, "new1", "new2"]
    drives.require_once()


async def test_a_drive_whose_reply_was_lost_with_its_adapter_has_the_same_result(
    app_bus: Bus, mission_floor: FloorMap, drives: DriveCounter
) -> None:
    """Whether the adapter died before it kept the result, or after; the next drive goes on."""
    async with running_fleet(_TWO[:1]) as (adapter, _):
        await fleet.check_in("acme.agv-1")
        _, writes = await fleet.reserve("m1", 1)
        await _write(app_bus, writes)
        vehicle = adapter.vehicle("acme.agv-1")

        def handlers(executor: AgvExecutor) -> dict[str, Any]:
            service = RobotService("acme.agv-1", executor=executor)
            return {each.event_type: each for each in service.handlers()}

        async def send(to: dict[str, Any], event_type: str, request_id: str, **order: Any) -> Any:
            command = Command(
                payload=single_order() | order,
                request_id=request_id,
                correlation_id="c",
                saga_id="",
                event_type=event_type,
                epoch=1,
            )
            return await to[event_type](command, None)

        robot, _, first = deploy_simulated(single_order())
        path = free_path(first)
        forgetful = AgvExecutor(vehicle)
        killed = handlers(forgetful)
        await send(killed, "robot:deploy", "deploy")
        expected = await send(killed, "robot:drive", "d1", path=path, until=3.0)

        async def forget(_settled: Any) -> None:
            raise ConnectionError

        forgetful.settle = forget  # type: ignore[method-assign, assignment]
        with pytest.raises(ConnectionError):
            await send(killed, "robot:drive", "d2", path=path, until=5.0)
        second = handlers(AgvExecutor(vehicle))
        again = await send(second, "robot:drive", "d1", path=path, until=3.0)
        assert again == expected
        found = await send(second, "robot:drive", "d2", path=path, until=5.0)
        third = handlers(AgvExecutor(vehicle))
        assert await send(third, "robot:drive", "d2", path=path, until=5.0) == found
        last = await send(third, "robot:drive", "d3", path=path, until=7.0)
        robot.drive(path, 3.0)
        for reply, until in ((found, 5.0), (last, 7.0)):
            report = await decode_report(reply["leg"])
            wanted = robot.drive(path, until)
            assert (report.pose, report.path, report.time) == (
                wanted.pose,
                wanted.path,
                wanted.time,
            )
            assert np.array_equal(report.patch.cells, wanted.patch.cells)
    drives.require_once()


async def test_a_recall_stops_a_robot_in_the_middle_of_a_drive(
    app_bus: Bus, mission_floor: FloorMap
) -> None:
    """At once, not at the barrier: cancelOrder is answered by its action state."""
    async with running_fleet(_TWO[:1], bus=app_bus, pace=1) as (adapter, [agv]):
        await all_present(adapter.names)
        _, _, first = deploy_simulated(single_order())
        path = free_path(first)
        _, writes = await fleet.reserve("m1", 1)
        await _write(app_bus, writes)
        command = Command(
            payload={"mission": "m1", "robots": ["acme.agv-1"]},
            request_id="explore",
            correlation_id="c",
            saga_id="",
            event_type="exploration:perform",
            epoch=1,
        )
        team = Team(command)
        await team.deploy("room", 1)
        driving = asyncio.create_task(
            team._send_order("acme.agv-1", "robot:drive", {"path": path, "until": 60.0})
        )
        await eventually(lambda: agv._driving, within_s=10, why="the robot drives")
        started = asyncio.get_running_loop().time()
        await Team(replace(command, request_id="abort")).recall()
        assert asyncio.get_running_loop().time() - started < 5
        assert agv.book.idle
        assert not agv._driving
        cancels = [
            each for each in agv.state().instant_action_states if each.action_type == "cancelOrder"
        ]
        assert [each.action_status for each in cancels] == ["FINISHED"]
        reply = await driving
        assert not reply["leg"]["arrived"]
        with pytest.raises(RequestFailed, match="replaced"):
            await team.report()


async def test_what_holds_a_robot_up_and_what_ends_its_drive(
    app_bus: Bus, mission_floor: FloorMap
) -> None:
    """A pause is waited for; a mode that takes no orders, a fatal error and a sign-off are losses."""
    conditions: list[str] = []

    async def note(condition: str) -> None:
        conditions.append(condition)
        if condition:
            agv.motion.go_on()
            agv.touch()

    async with running_fleet(_TWO[:1], bus=app_bus) as (adapter, [agv]):
        executor = AgvExecutor(adapter.vehicle("acme.agv-1"))
        await executor.deploy(single_order(), "deploy")
        _, _, first = deploy_simulated(single_order())
        path = free_path(first)
        agv.motion.pause()
        agv.touch()
        await eventually(
            lambda: adapter.vehicle("acme.agv-1").hold_up(), within_s=5, why="the pause is known"
        )
        await eventually(_condition_of("acme.agv-1", "it is paused"), within_s=5, why="unavailable")
        await executor.drive(drive_order("d1", path, 1.0), note)
        assert conditions == ["it is paused", ""]
        await eventually(_condition_of("acme.agv-1", ""), within_s=5, why="available again")
        robot = (await fleet.robots())[0]
        assert robot.measured is not None
        assert 0 < robot.measured <= 100

        await agv.set_operating_mode("MANUAL")
        with pytest.raises(RobotFailed, match="its operating mode is MANUAL"):
            await _keep_driving(executor, path)
        reason = "its operating mode is MANUAL"
        await eventually(_condition_of("acme.agv-1", reason), within_s=5, why="unavailable")
        with pytest.raises(fleet.TooFewRobots, match="1 unavailable"):
            await fleet.reserve("m2", 1)
        await agv.set_operating_mode("AUTOMATIC")
        await _able(adapter)

        agv.errors = [v3.Error(error_type="LOCALIZATION_ERROR", error_level="FATAL")]
        agv.touch()
        with pytest.raises(RobotFailed, match="fatal error LOCALIZATION_ERROR"):
            await _keep_driving(executor, path)
        agv.errors = []
        agv.touch()
        await _able(adapter)
        await agv.sign_off()
        with pytest.raises(RobotFailed, match="its connection is OFFLINE"):
            await _keep_driving(executor, path)
        await eventually(_absent, within_s=5, why="it is absent")


async def test_a_robot_that_does_not_answer_a_recall_is_told_when_it_is_heard(
    app_bus: Bus, mission_floor: FloorMap, mosquitto: Mosquitto
) -> None:
    """The recall of the mission is not held up by it."""
    choose_settings(robot_timeout_s=1.0)
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(cuttable(mosquitto))
        agv = await stack.enter_async_context(running_agv(AgvSpec.parse(_TWO[0])))
        choose_settings(vda5050_broker_url=mosquitto.url)
        adapter = await stack.enter_async_context(running_adapter(_TWO[:1]))
        executor = AgvExecutor(adapter.vehicle("acme.agv-1"))
        _, first = await executor.deploy(single_order(), "deploy")
        await executor.drive(drive_order("d1", free_path(first), 0.2), ignore)
        link.cut()
        await executor.halt()
        assert executor.abandoned
        assert not agv.book.idle
        link.is_cut = False
        await eventually(
            lambda: adapter.vehicle("acme.agv-1").connection == "ONLINE", within_s=20, why="back"
        )
        choose_settings(robot_timeout_s=10.0)
        await executor.cancel()
        assert agv.book.idle
        assert not executor.abandoned


async def test_an_order_that_no_mission_has_any_more_is_cancelled(
    app_bus: Bus, mission_floor: FloorMap
) -> None:
    """A robot that comes back after its mission has ended is told to drop its order."""
    async with running_fleet(_TWO[:1], bus=app_bus) as (adapter, [agv]):
        executor = AgvExecutor(adapter.vehicle("acme.agv-1"))
        await executor.deploy(single_order(), "deploy")
        _, _, first = deploy_simulated(single_order())
        await executor.drive(drive_order("d1", free_path(first), 0.2), ignore)
        await eventually(lambda: agv.book.cancelled, within_s=5, why="the order is cancelled")
        assert agv.book.idle


async def _keep_driving(executor: AgvExecutor, path: list[Point]) -> None:
    for number in range(10, 100):
        await executor.drive(drive_order(f"d{number}", path, float(number)), ignore)


async def _able(adapter: Adapter) -> None:
    vehicle = adapter.vehicle("acme.agv-1")
    await eventually(lambda: not vehicle.failure(), within_s=5, why="the robot takes orders")


def _condition_of(name: str, expected: str) -> Callable[[], Any]:
    async def matches() -> bool:
        robots = {robot.name: robot for robot in await fleet.robots()}
        return name in robots and robots[name].unavailable == expected

    return matches


async def _absent() -> bool:
    return not any(robot.present for robot in await fleet.robots())


async def _write(bus: Bus, writes: Any) -> None:
    for write in writes:
        await bus.command("HSET", bus.key(write.key), write.field, write.value)
