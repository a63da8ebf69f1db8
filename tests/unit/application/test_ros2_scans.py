"""From ROS 2 messages to scans on a map: frames over time, ranges, sessions."""

import json
import logging
import math
from typing import Any

import numpy as np
import pytest

from app.exploration.driver import Pose
from app.export import ros_messages as ros
from app.robots.vda5050.dialects import BadMessage
from app.robots.vda5050.scans import MAX_BEAMS, ScanRequest
from app.ros2.laser_scans import BadScan, numbered
from app.ros2.scan_bridge import BridgedRobot
from app.ros2.scan_recorder import ScanRecorder
from app.ros2.transforms import NoTransform, Transforms
from app.vda5050_settings import RobotIdentity

_S = 1_000_000_000
_T0 = 1000 * _S
_LEVEL = np.eye(4)


def _odometry(time_s: float, x: float, heading: float = 0.0) -> Any:
    return ros.odometry(_T0 + int(time_s * _S), "odom", "base", Pose(x, 0.0, heading))


def _known(times: list[float]) -> Transforms:
    """A robot that drives 1 m/s along x from the origin, with its lidar 0.2 m ahead."""
    transforms = Transforms("map")
    transforms.add_mounted(ros.transforms(_T0, [("base", "laser", Pose(0.2, 0.0))]))
    transforms.add_moving(ros.transforms(_T0, [("map", "odom", Pose(10.0, 5.0, math.pi / 2))]))
    for time_s in times:
        transforms.add_odometry(_odometry(time_s, time_s))
    return transforms


def _scan(time_s: float, ranges: list[float], frame_id: str = "laser") -> Any:
    return ros.laser_scan(
        *(_T0 + int(time_s * _S), frame_id, np.array(ranges)),
        angle_min=-0.5,
        angle_increment=0.25,
        range_max=8.0,
    )


def test_a_lidar_is_placed_between_two_odometry_messages() -> None:
    """Through the map, the odometry and the mount."""
    found = _known([0.0, 1.0]).lookup("laser", _T0 + _S // 2, newest=True)
    assert found[:2, 3] == pytest.approx([10.0, 5.7])
    assert math.atan2(found[1, 0], found[0, 0]) == pytest.approx(math.pi / 2)


def test_the_frame_names_may_have_a_slash() -> None:
    """As old drivers write them."""
    assert _known([0.0]).lookup("/laser", _T0) is not None


@pytest.mark.parametrize(
    ("frame", "time_s", "newest", "may_come", "text"),
    [
        ("laser", 1.2, False, True, "the last transform of 'base' is 0.2 s old"),
        ("laser", 2.0, True, True, "the last transform of 'base' is 1.0 s old"),
        ("laser", -50.0, True, False, "50.0 s older than the oldest .*do their clocks differ"),
        ("camera", 1.0, True, True, "no transform to frame 'camera'"),
    ],
)
def test_what_is_not_known_is_named(
    frame: str, time_s: float, newest: bool, may_come: bool, text: str
) -> None:
    """And whether waiting may help."""
    with pytest.raises(NoTransform, match=text) as caught:
        _known([0.0, 1.0]).lookup(frame, _T0 + int(time_s * _S), newest=newest)
    assert caught.value.may_come == may_come


def test_a_late_odometry_and_an_old_localization_are_taken_in_the_end() -> None:
    """Localization publishes when the robot moves; odometry may be 0.5 s late."""
    found = _known([0.0, 1.0]).lookup("laser", _T0 + int(1.4 * _S), newest=True)
    assert found[:2, 3] == pytest.approx([10.0, 6.2])


def test_a_clock_that_goes_back_begins_anew() -> None:
    """What was measured by the old clock is dropped; a message that comes late is left out."""
    transforms = _known([100.0, 99.0])
    assert transforms.lookup("laser", _T0 + 100 * _S, newest=True)[1, 3] == pytest.approx(105.2)
    for back_s, x in ((-20.0, 3.0), (-23.0, 4.0)):
        at = _T0 + int(back_s * _S)
        transforms.add_moving(ros.transforms(at, [("map", "odom", Pose(0.0, 0.0))]))
        transforms.add_odometry(_odometry(back_s, x))
        found = transforms.lookup("laser", at, newest=True)
        assert found[:2, 3] == pytest.approx([x + 0.2, 0.0])


def test_frames_in_a_ring_and_too_many_frames_end() -> None:
    """A hostile publisher costs neither a loop without end nor memory without bound."""
    transforms = Transforms("map")
    pairs = [("a", "b", Pose(0.0, 0.0)), ("b", "a", Pose(0.0, 0.0))]
    transforms.add_mounted(ros.transforms(_T0, pairs))
    with pytest.raises(NoTransform, match="have no end"):
        transforms.lookup("a", _T0)
    many = [("map", f"f{number}", Pose(0.0, 0.0)) for number in range(2000)]
    transforms.add_moving(ros.transforms(_T0, many))
    assert len(transforms._moving) < 1000
    for number in range(20_000):
        transforms.add_moving(ros.transforms(_T0 + number * 1000, [("map", "f1", Pose(0.0, 0.0))]))
    assert len(transforms._moving["f1"].times) < 5000


def test_ranges_are_read_as_ros_has_them() -> None:
    """Infinite is no return, too near and NaN are failures."""
    message = _scan(0.0, [1.0, math.inf, math.nan, -math.inf, 9.0])
    message.range_min = 0.5
    message.ranges[0] = 0.4
    found = numbered(3, message, _LEVEL)
    assert json.loads(found.to_json())["ranges"] == [-1, None, -1, -1, None]
    assert (found.number, found.angle_min, found.angle_increment) == (3, -0.5, 0.25)


def test_a_lidar_that_hangs_upside_down_turns_the_other_way() -> None:
    """And one that stands upright is refused."""
    upside_down = np.diag([1.0, -1.0, -1.0, 1.0])
    found = numbered(0, _scan(0.0, [1.0, 2.0]), upside_down)
    assert (found.angle_min, found.angle_increment) == (0.5, -0.25)
    sideways = np.array([[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
    with pytest.raises(BadScan, match="not level"):
        numbered(0, _scan(0.0, [1.0]), sideways)


def test_a_scan_with_too_many_beams_is_thinned() -> None:
    """Every second beam, with twice the angle."""
    message = _scan(0.0, [1.0] * (MAX_BEAMS + 1))
    message.angle_increment = 2 * math.pi / MAX_BEAMS
    found = numbered(0, message, _LEVEL)
    assert len(found.ranges) == MAX_BEAMS // 2 + 1
    assert found.angle_increment == pytest.approx(4 * math.pi / MAX_BEAMS)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("angle_min", math.nan, "angle_min: nan is not a finite number"),
        ("range_max", 0.0, "range_max: 0.0 is not a positive number"),
        ("range_max", math.nan, "range_max: nan is not a positive number"),
        ("range_min", 8.0, r"range_min: 8.0 is not below range_max, 8.0"),
        ("ranges", np.zeros(0, np.float32), "ranges: there are none"),
        ("angle_increment", 0.0, r"angle_increment: 3 beams, 0.0 rad apart, have no angle"),
        ("angle_increment", -5.0, r"angle_increment: 3 beams, -5.0 rad apart, have .* more than"),
    ],
)
def test_a_scan_without_sense_is_refused_by_its_field(name: str, value: Any, text: str) -> None:
    """The field is named."""
    message = _scan(0.0, [1.0, 2.0, 3.0])
    numbered(0, message, _LEVEL)
    setattr(message, name, value)
    with pytest.raises(BadScan, match=text):
        numbered(0, message, _LEVEL)


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _numbers(recorder: ScanRecorder, first: int = 0, end: int = 1000) -> list[int]:
    return [json.loads(text)["number"] for text in recorder.texts(first, end)]


def test_a_session_begins_with_the_next_scan() -> None:
    """A robot that stands adds nothing more; one that moves does."""
    transforms = _known([0.0, 1.0, 2.0, 3.0])
    recorder = ScanRecorder("agv", transforms, _Clock())
    recorder.add(_scan(1.0, [1.0]))
    assert recorder.count == 0
    recorder.begin("s", 0)
    assert _numbers(recorder) == []
    for time_s in (1.0, 1.05, 1.09, 2.0, 3.0):
        recorder.add(_scan(time_s, [1.0]))
    assert _numbers(recorder) == [0, 1, 2]
    assert [json.loads(text)["y"] for text in recorder.texts(0, 9)] == pytest.approx(
        [6.2, 7.2, 8.2]
    )
    assert _numbers(recorder, 1, 2) == [1]


def test_a_bridge_that_was_restarted_goes_on_with_the_next_number() -> None:
    """So fleet control misses what was lost with it, and nothing more."""
    recorder = ScanRecorder("agv", _known([0.0, 1.0]), _Clock())
    recorder.add(_scan(0.5, [1.0]))
    recorder.begin("s", 57)
    recorder.add(_scan(1.0, [1.0]))
    assert (_numbers(recorder), recorder.count) == ([57], 58)
    assert _numbers(recorder, 0, 58) == [57]
    assert _numbers(recorder, 58, 60) == []


def test_a_scan_waits_for_the_transforms_of_its_time() -> None:
    """Not longer than a second; the scans behind it are not lost."""
    clock = _Clock()
    transforms = _known([0.0, 1.0])
    recorder = ScanRecorder("agv", transforms, clock)
    recorder.begin("s", 0)
    recorder.add(_scan(2.0, [1.0]))
    assert recorder.count == 0
    transforms.add_odometry(_odometry(3.0, 3.0))
    recorder.locate()
    assert recorder.count == 1
    recorder.add(_scan(9.0, [1.0], "camera"))
    recorder.add(_scan(2.5, [1.0]))
    assert recorder.count == 1
    clock.now = 1.5
    recorder.locate()
    assert recorder.count == 2


def test_why_scans_are_left_out_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """And that it is over."""
    caplog.set_level(logging.WARNING)
    recorder = ScanRecorder("agv", _known([0.0, 1.0]), _Clock())
    for _ in range(3):
        recorder.add(_scan(-100.0, [1.0]))
    recorder.add(_scan(0.5, [1.0]))
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert "do their clocks differ?" in texts[0]
    assert "can be used again" in texts[1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"requestId": ""}, "requestId and sessionId"),
        ({"sessionId": 3}, "requestId and sessionId"),
        ({"sessionId": "x" * 300}, "requestId and sessionId"),
        ({"from": -1}, "from: -1"),
        ({"to": True}, "to: True"),
        ({"from": 9}, "to: 8 is before from, 9"),
    ],
)
def test_a_malformed_request_is_refused_by_its_field(change: dict[str, Any], text: str) -> None:
    """The field is named."""
    good = {"requestId": "r", "sessionId": "s", "from": 4, "to": 8}
    assert ScanRequest.decode(json.dumps(good).encode()) == ScanRequest("r", "s", 4, 8)
    with pytest.raises(BadMessage, match=text):
        ScanRequest.decode(json.dumps(good | change).encode())


@pytest.mark.parametrize("text", ["acme/agv-1=agv_1", "acme/agv-1=/agv_1/"])
def test_a_bridged_robot_has_an_identity_and_a_namespace(text: str) -> None:
    """With and without slashes."""
    assert BridgedRobot.parse(text) == BridgedRobot(RobotIdentity("acme", "agv-1"), "/agv_1")
    assert BridgedRobot.parse("acme/agv-1").namespace == ""
