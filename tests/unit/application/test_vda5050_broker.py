"""The connection to an MQTT broker: settings, TLS, passwords, and what is malformed."""

import asyncio
import contextlib
import json
import logging
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import trustme
from pydantic import ValidationError

from app.config import Settings, choose_settings, explain, get_settings
from app.exploration.grid import FloorMap
from app.exploration.simulation.start_poses import start_poses
from app.robots.vda5050 import v3
from app.robots.vda5050.adapter import Adapter
from app.robots.vda5050.agv_process import AgvSpec, running_agv
from app.robots.vda5050.broker_check import check_broker
from app.robots.vda5050.dialects import DIALECTS, BadMessage, HeaderCounter
from app.robots.vda5050.mqtt_client import BadBroker, BrokerClient
from app.robots.vda5050.scans import MAX_PER_MESSAGE, decode_scans, encode_scans
from app.robots.vda5050.simulated_agv import SimulatedAgv
from app.robots.vda5050.vehicle import RobotFailed, Vehicle
from app.vda5050_settings import BrokerAddress, RobotIdentity
from sagastream import Bus
from tests.mosquitto import Mosquitto, running_mosquitto
from tests.polling import eventually
from tests.vda5050_fleet import heard, running_adapter, running_fleet

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(60)]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"vda5050_broker_url": "http://host"}, "VDA5050_BROKER_URL: must be mqtt://"),
        ({"vda5050_broker_url": "mqtt://user:secret@"}, "VDA5050_BROKER_URL: must be mqtt://"),
        ({"vda5050_broker_url": "mqtt://h:99999"}, "VDA5050_BROKER_URL: its port"),
        ({"vda5050_robots": "acme"}, "VDA5050_ROBOTS: 'acme' is not manufacturer/serialNumber"),
        ({"vda5050_robots": "acme/a#"}, "VDA5050_ROBOTS: 'acme/a#' is not"),
        ({"vda5050_robots": "a/b.c,a.b/c"}, "VDA5050_ROBOTS: two robots would have the name"),
        ({"vda5050_robots": "acme/a"}, "VDA5050_ROBOTS: needs VDA5050_BROKER_URL"),
        ({"vda5050_cert_file": "c.pem"}, "VDA5050_CERT_FILE and VDA5050_KEY_FILE: give both"),
        ({"vda5050_interface": "a/b"}, "VDA5050_INTERFACE"),
        ({"vda5050_keepalive_s": 0}, "VDA5050_KEEPALIVE_S"),
    ],
)
def test_an_invalid_setting_is_refused_by_its_name(given: dict[str, Any], complaint: str) -> None:
    """In one line, without the value if that may be a password."""
    with pytest.raises(ValidationError) as caught:
        Settings(**given)
    assert explain(caught.value).startswith(complaint)
    assert "secret" not in explain(caught.value)


def test_an_address_is_read_and_shown_without_its_password(tmp_path: Path) -> None:
    """User and password are decoded; the URL may be in a file."""
    address = BrokerAddress.parse("mqtts://me:p%40ss@broker.example")
    assert (address.host, address.port, address.tls) == ("broker.example", 8883, True)
    assert (address.username, address.password) == ("me", "p@ss")
    assert "p@ss" not in repr(address)
    (tmp_path / "url").write_text("mqtt://me:word@host\n")
    settings = Settings(vda5050_broker_url_file=tmp_path / "url", vda5050_robots="a/b, c/d")
    assert settings.vda5050_broker == BrokerAddress("host", 1883, False, "me", "word")
    assert settings.vda5050_identities == (RobotIdentity("a", "b"), RobotIdentity("c", "d"))
    assert "word" not in repr(settings)


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_broker_with_tls_and_passwords(
    app_bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both sides come in with them; a wrong password and an unknown authority are reported."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("mosquitto_passwd is not installed: apt-get install mosquitto")
    passwords = tmp_path / "passwords"
    await asyncio.to_thread(
        subprocess.run, [program, "-b", "-c", str(passwords), "me", "p@ss"], check=True
    )
    lines = [
        "user root",
        f"password_file {passwords}",
        f"certfile {tmp_path / 'cert.pem'}",
        f"keyfile {tmp_path / 'key.pem'}",
    ]
    with running_mosquitto(tmp_path, lines) as broker:
        url = f"mqtts://me:p%40ss@127.0.0.1:{broker.port}"
        choose_settings(vda5050_broker_url=url, vda5050_ca_file=tmp_path / "ca.pem")
        async with running_fleet(["acme/agv-1"]) as (adapter, _):
            assert adapter.vehicle("acme.agv-1").connection == "ONLINE"
        for wrong, fix in (
            ({"vda5050_broker_url": url.replace("p%40ss", "guess")}, "a user and a password"),
            ({"vda5050_broker_url": url, "vda5050_ca_file": None}, "set VDA5050_CA_FILE"),
        ):
            caplog.clear()
            choose_settings(**wrong)
            client = BrokerClient(
                get_settings(), identifier="x", topics=[], on_message=lambda _topic, _payload: None
            )
            running = asyncio.create_task(client.run())
            await eventually(lambda: caplog.records, within_s=10, why="it is reported")
            running.cancel()
            await asyncio.wait([running])
            assert not client.connected
            assert "no connection to the broker" in caplog.text
            assert "guess" not in caplog.text
            [check] = await check_broker(get_settings())
            assert (check.name, check.ok) == ("broker", False)
            assert fix in check.mend
            assert "guess" not in str(check)


async def test_doctor_looks_at_the_broker_and_the_robots(
    mission_floor: FloorMap, mosquitto: Mosquitto
) -> None:
    """What is wrong has its fix: no robot named, one of two away, no broker, a silent one."""
    [broker, robots] = await check_broker(get_settings())
    assert (broker.ok, robots.ok) == (True, True)
    assert "set VDA5050_ROBOTS" in robots.mend
    choose_settings(vda5050_robots="acme/agv-1,acme/agv-2")
    async with running_agv(AgvSpec.parse("acme/agv-1@2.1")):

        async def seen() -> bool:
            [_, robots] = await check_broker(get_settings())
            return robots.detail == "1 of 2 are online; not acme.agv-2"

        await eventually(seen, within_s=15, why="one robot is online")
        async with running_agv(AgvSpec.parse("acme/agv-2")):

            async def well() -> bool:
                return all(check.ok for check in await check_broker(get_settings()))

            await eventually(well, within_s=15, why="both are online")
    [_, robots] = await check_broker(get_settings())
    assert robots.detail == "0 of 2 are online; not acme.agv-1, acme.agv-2"
    mosquitto.kill()
    [broker] = await check_broker(get_settings())
    assert not broker.ok
    assert broker.mend == "start the broker, or set VDA5050_BROKER_URL"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        choose_settings(vda5050_broker_url=f"mqtt://127.0.0.1:{silent.getsockname()[1]}")
        [broker] = await check_broker(get_settings())
    assert broker.detail.endswith("no answer in 3 s")
    choose_settings(vda5050_broker_url="", vda5050_robots="")
    assert await check_broker(get_settings()) == []


def test_what_cannot_be_used_is_refused_by_the_variable(tmp_path: Path) -> None:
    """Before anything is connected."""

    def client(**given: Any) -> None:
        BrokerClient(
            Settings(**given), identifier="x", topics=[], on_message=lambda _topic, _payload: None
        )

    with pytest.raises(BadBroker, match="VDA5050_BROKER_URL: not set"):
        client()
    missing = tmp_path / "none.pem"
    with pytest.raises(BadBroker, match=r"VDA5050_CA_FILE: .*none\.pem"):
        client(vda5050_broker_url="mqtts://h", vda5050_ca_file=missing)
    with pytest.raises(BadBroker, match=r"VDA5050_CERT_FILE, VDA5050_KEY_FILE: .*none\.pem"):
        client(vda5050_broker_url="mqtts://h", vda5050_cert_file=missing, vda5050_key_file=missing)


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait until something is logged."""
    await eventually(lambda: text in caplog.text, within_s=5, why=text)


async def test_malformed_messages_hide_nothing_else(
    app_bus: Bus, mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """On both sides: they are logged by their topic, and what comes next is taken."""
    choose_settings(vda5050_broker_url=mosquitto.url)
    caplog.set_level(logging.WARNING)
    async with running_fleet(["acme/agv-1@2.1"]) as (adapter, [agv]):
        vehicle = adapter.vehicle("acme.agv-1")
        base = "uagv/v2/acme/agv-1"
        other = json.dumps(
            {
                "headerId": 1,
                "timestamp": "x",
                "version": "2.1.0",
                "manufacturer": "acme",
                "serialNumber": "b",
                "connectionState": "OFFLINE",
            }
        ).encode()
        for topic, payload, complaint in (
            ("state", b"{", "state: no JSON"),
            ("state", b'{"version": "9.0.0"}', "version: '9.0.0' is not one of"),
            ("connection", other, "names another robot than its topic"),
            ("scan", b'{"sessionId": 1}', "scan: sessionId and scans"),
            ("order", b"[]", "order: no JSON object"),
            ("instantActions", b'{"headerId": -1}', "instantActions: headerId"),
        ):
            await adapter.client.publish(f"{base}/{topic}", payload)
            await logged(caplog, complaint)
        assert vehicle.connection == "ONLINE"
        assert [error.error_type for error in agv.errors] == ["VALIDATION_FAILURE"] * 2
        await vehicle.act("stateRequest", "s1", timeout=5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"number": -1}, "number"),
        ({"number": True}, "number"),
        ({"ranges": []}, "ranges: 0 beams"),
        ({"ranges": [0.0] * 5000}, "5000 beams"),
        ({"ranges": ["x"]}, "ValueError"),
        ({"ranges": 3}, "TypeError"),
        ({"x": 1e999}, "not a sensible number"),
        ({"rangeMax": 0}, "not a sensible number"),
        ({"theta": None}, "TypeError"),
    ],
)
def test_a_malformed_scan_is_refused(change: dict[str, Any], complaint: str) -> None:
    """Whatever is wrong is named."""
    scan: dict[str, Any] = {
        "number": 0,
        "x": 0.0,
        "y": 0.0,
        "theta": 0.0,
        "angleMin": 0.0,
        "angleIncrement": 0.1,
        "rangeMax": 8.0,
        "ranges": [1.0, None, -1],
    }
    good = json.dumps(scan)
    message = decode_scans(encode_scans({"headerId": 0}, "s", [good]))
    session, [read] = message.session, message.scans
    assert (session, json.loads(read.to_json())) == ("s", scan)
    with pytest.raises(BadMessage, match=f"^scan: .*{complaint}"):
        decode_scans(encode_scans({}, "s", [json.dumps(scan | change)]))
    with pytest.raises(BadMessage, match="at most"):
        decode_scans(encode_scans({}, "s", [good] * (MAX_PER_MESSAGE + 1)))


def _state(number: int, second: int, node: str) -> bytes:
    return json.dumps(
        {
            "headerId": number,
            "timestamp": f"2026-11-26T10:00:{second:02}.000Z",
            "version": "2.1.0",
            "manufacturer": "acme",
            "serialNumber": "agv-1",
            "orderId": "",
            "orderUpdateId": 0,
            "lastNodeId": node,
            "lastNodeSequenceId": 0,
            "nodeStates": [],
            "edgeStates": [],
            "driving": False,
            "actionStates": [],
            "batteryState": {"batteryCharge": 50, "charging": False},
            "operatingMode": "AUTOMATIC",
            "errors": [],
            "safetyState": {"eStop": "NONE", "fieldViolation": False},
        }
    ).encode()


def _connection(number: int, second: int, state: str, version: str = "2.1.0") -> bytes:
    return json.dumps(
        {
            "headerId": number,
            "timestamp": f"2026-11-26T10:00:{second:02}.000Z",
            "version": version,
            "manufacturer": "acme",
            "serialNumber": "agv-1",
            "connectionState": state,
        }
    ).encode()


async def _swallow(_topic: str, _payload: bytes) -> bool:
    return True


async def test_a_robot_that_was_restarted_is_heard_though_its_clock_went_back(app_bus: Bus) -> None:
    """It counts from 0 again; a late state of one connection is still left out."""
    vehicle = Vehicle(RobotIdentity("acme", "agv-1"), _swallow)
    vehicle.receive("connection", _connection(0, 30, "ONLINE"))
    vehicle.receive("state", _state(7, 37, "a"))
    vehicle.receive("connection", _connection(0, 30, "ONLINE"))
    vehicle.receive("state", _state(6, 36, "late"))
    assert vehicle.state is not None
    assert vehicle.state.last_node_id == "a"
    vehicle.receive("connection", _connection(0, 30, "CONNECTIONBROKEN"))
    vehicle.receive("connection", _connection(0, 2, "ONLINE"))
    vehicle.receive("state", _state(0, 3, "b"))
    assert vehicle.state.last_node_id == "b"
    vehicle.receive("state", _state(0, 3, "late"))
    assert vehicle.state.last_node_id == "b"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_what_the_broker_has_kept_from_an_earlier_version_of_a_robot_does_not_count(
    app_bus: Bus, order: tuple[int, int]
) -> None:
    """Its retained message is on another topic, where the robot does not replace it any more."""
    kept = [
        _connection(0, 1, "CONNECTIONBROKEN"),
        _connection(0, 40, "ONLINE", "3.0.0"),
    ]
    vehicle = Vehicle(RobotIdentity("acme", "agv-1"), _swallow)
    for number in order:
        vehicle.receive("connection", kept[number])
    assert (vehicle.connection, vehicle.dialect) == ("ONLINE", DIALECTS["3.0"])
    vehicle.receive("connection", _connection(1, 39, "CONNECTION_BROKEN", "3.0.0"))
    assert vehicle.connection == "CONNECTION_BROKEN"


async def test_what_is_not_answered_is_sent_again_with_the_same_id(app_bus: Bus) -> None:
    """Until its action state says that it has ended; a robot that never answers is an error."""
    choose_settings(vda5050_resend_s=0.02)
    sent: list[dict[str, Any]] = []

    async def publish(_topic: str, payload: bytes) -> bool:
        sent.append(json.loads(payload))
        if len(sent) == 3:
            state = json.loads(_state(1, 1, "a"))
            action_id = sent[-1]["actions"][0]["actionId"]
            state["actionStates"] = [{"actionId": action_id, "actionStatus": "FINISHED"}]
            vehicle.receive("state", json.dumps(state).encode())
        return True

    vehicle = Vehicle(RobotIdentity("acme", "agv-1"), publish)
    done = await vehicle.act("startPause", "p1", timeout=5)
    assert done.action_status == "FINISHED"
    assert [each["actions"][0]["actionId"] for each in sent] == ["p1"] * 3
    assert [each["headerId"] for each in sent] == [0, 1, 2]
    with pytest.raises(RobotFailed, match=r"no answer to stopPause in 0\.1 s"):
        await vehicle.act("stopPause", "p2", timeout=0.1)


async def test_the_same_instant_action_is_done_once(app_bus: Bus, mission_floor: FloorMap) -> None:
    """A position that is set again would begin the session of scans again."""
    sent: list[str] = []

    async def publish(name: str, _payload: bytes, _qos: int, _retain: bool) -> bool:
        sent.append(name)
        return True

    robot = RobotIdentity("acme", "agv-1")
    agv = SimulatedAgv(robot, DIALECTS["3.0"], publish)
    pose = start_poses(mission_floor, 1, 0)[0]
    given = {"x": pose.x, "y": pose.y, "theta": 0.0, "mapId": "room", "lastNodeId": "a"}
    action = {
        "action_type": "initializePosition",
        "action_id": "i1",
        "blocking_type": "NONE",
        "action_parameters": [{"key": key, "value": value} for key, value in given.items()],
    }
    header = HeaderCounter(robot).next("instantActions")
    message = v3.InstantActions.model_validate(header | {"actions": [action]})
    for _ in range(3):
        agv.receive("instantActions", DIALECTS["3.0"].encode(message))
    await eventually(lambda: agv.state().action("i1").ended, within_s=10, why="it has ended")  # type: ignore[union-attr]
    agv.receive("instantActions", DIALECTS["3.0"].encode(message))
    await asyncio.gather(*agv._tasks)
    assert sent.count("scan") == 1
    assert agv.motion.count == 1
    assert [each.action_id for each in agv.state().instant_action_states] == ["i1"]


async def test_an_older_state_does_not_replace_a_newer_one(app_bus: Bus) -> None:
    """A repeated and a late one are dropped; a robot that counts from 0 again is believed."""

    async def publish(_topic: str, _payload: bytes) -> bool:
        return True

    vehicle = Vehicle(RobotIdentity("acme", "agv-1"), publish)
    for number, second, node, last in (
        (7, 10, "a", "a"),
        (8, 11, "b", "b"),
        (7, 10, "a", "b"),
        (8, 11, "c", "b"),
        (0, 12, "d", "d"),
        (1, 9, "e", "e"),
    ):
        vehicle.receive("state", _state(number, second, node))
        assert vehicle.state is not None
        assert vehicle.state.last_node_id == last


async def test_a_robot_that_signs_off_and_comes_back_is_heard_again(
    app_bus: Bus, mosquitto: Mosquitto
) -> None:
    """Its connection messages are retained, and its state is asked for."""
    choose_settings(vda5050_broker_url=mosquitto.url, vda5050_interface="site-a")
    spec = AgvSpec.parse("acme/agv-1@2.0")
    async with running_agv(spec), running_adapter(["acme/agv-1"]) as adapter:
        vehicle = adapter.vehicle("acme.agv-1")
        assert vehicle.dialect is not None
        assert vehicle.dialect.version == "2.0.0"
    adapter = Adapter(get_settings(), [spec.robot])
    vehicle = adapter.vehicle("acme.agv-1")
    running = asyncio.create_task(adapter.client.run())
    await eventually(lambda: vehicle.connection == "OFFLINE", within_s=5, why="it signed off")
    async with running_agv(spec):
        await heard(vehicle)
    running.cancel()
    await asyncio.wait([running])


async def _assert_it_ends(client: BrokerClient, reached: asyncio.Event) -> None:
    """Run a client, cancel it when it has reached a point, and see that it ends."""
    running = asyncio.create_task(client.run())
    await reached.wait()
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    running.cancel()
    assert done == {running}
    assert running.cancelled()


@pytest.mark.parametrize("error", [aiomqtt.MqttError("Operation timed out"), None])
async def test_a_disconnection_that_fails_hides_no_cancellation(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """The broker is away, or the end of the connection has swallowed it: the client ends all the same."""
    choose_settings(vda5050_broker_url=mosquitto.url)
    connected = asyncio.Event()

    async def note() -> None:
        connected.set()

    client = BrokerClient(
        get_settings(), identifier="it", topics=["a"], on_message=lambda *_: None, on_connect=note
    )
    leave = aiomqtt.Client.__aexit__

    async def fail(self: aiomqtt.Client, *args: Any) -> bool:
        await leave(self, *args)
        if error:
            raise error
        return True

    monkeypatch.setattr(aiomqtt.Client, "__aexit__", fail)
    await _assert_it_ends(client, connected)


@pytest.mark.parametrize("call", ["subscribe", "publish"])
async def test_a_call_that_swallows_a_cancellation_hides_none(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """`asyncio.wait_for` of Python 3.11 does so if the answer comes at the same time."""
    choose_settings(vda5050_broker_url=mosquitto.url)
    called = asyncio.Event()

    async def swallow(_self: aiomqtt.Client, *_args: Any, **_options: Any) -> None:
        called.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def publish() -> None:
        await client.publish("a", b"")

    client = BrokerClient(
        get_settings(),
        identifier="it",
        topics=["a"],
        on_message=lambda *_: None,
        on_connect=publish,
    )
    monkeypatch.setattr(aiomqtt.Client, call, swallow)
    await _assert_it_ends(client, called)
