"""Alignment of all scans with one another."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

import app.exploration.mapping.slam as slam_module
from app.exploration.driver import Pose
from app.exploration.grid import GridFrame, Mask
from app.exploration.lidar import Floats, cast_rays
from app.exploration.mapping.keyframes import Scan
from app.exploration.mapping.pose_graph import Edge
from app.exploration.mapping.scan_alignment import align_scans
from app.exploration.mapping.scan_surfaces import ScanSurfaces, scan_surfaces
from app.exploration.mapping.slam import SlamMap
from app.exploration.se2 import Points, Transform, between, compose, to_pose
from app.exploration.simulation.halls_and_caves import draw_hall
from app.exploration.simulation.lidar_simulation import LDS_02
from app.exploration.simulation.log_replay import LogRecord, LogReplay
from app.exploration.simulation.odometry_simulation import OdometrySpec
from app.exploration.simulation.simulated_base import SimulatedBase

FRAME = GridFrame(240, 600, 0.05)
HALF = np.linspace(-math.pi / 2, math.pi / 2, 181)
ROUND = np.linspace(-math.pi, math.pi, 361)[:-1]
BLOCKS = (
    (4.0, 1.0, 4.6, 3.0),
    (9.0, 6.0, 10.0, 9.0),
    (13.0, 1.0, 13.4, 4.0),
    (15.0, 7.0, 17.0, 7.5),
)


def room(*blocks: tuple[float, float, float, float]) -> Mask:
    """Return a room of 20 by 8 m with blocks; each block is x0, y0, x1, y1 in metres."""
    blocked = np.ones((FRAME.rows, FRAME.cols), np.bool_)
    blocked[20:180, 20:420] = False
    for x0, y0, x1, y1 in blocks:
        blocked[int(y0 * 20) : int(y1 * 20), int(x0 * 20) : int(x1 * 20)] = True
    return blocked


def scan_at(blocked: Mask, pose: Transform, beams: Floats = HALF) -> Scan:
    """Take a scan."""
    x, y, heading = (float(value) for value in pose)
    return Scan(beams, cast_rays(blocked, FRAME, (x, y), beams + heading, reach=30.0), 30.0)


def seen(blocked: Mask, pose: Transform, beams: Floats = HALF) -> Points:
    """Return what a scan shows."""
    return scan_at(blocked, pose, beams).points()


def there_and_back() -> Transform:
    """Return the poses of a drive along the room and back, 0.5 m apart."""
    forth = [np.array([3.0 + 0.5 * step, 4.5 + 0.02 * step, 0.1]) for step in range(20)]
    back = [pose + np.array([0.2, 0.3, math.pi - 0.2]) for pose in reversed(forth)]
    return np.array(forth + back)


def chained(poses: Transform, sigma: float) -> list[Edge]:
    """Return the edges between successive poses."""
    information = np.eye(3) / sigma**2
    return [
        Edge(index, index + 1, between(one, two), information, trusted=True)
        for index, (one, two) in enumerate(pairwise(poses))
    ]


@pytest.mark.parametrize("seed", range(3))
def test_scans_of_one_place_bring_the_poses_together(seed: int) -> None:
    """Poses that drift by tens of centimetres come within 2 cm and a third of a degree of the truth."""
    truth = there_and_back()
    random = np.random.default_rng(seed)
    guess = [truth[0]]
    for one, two in pairwise(truth):
        noise = random.normal(0.0, (0.02, 0.02, 0.008))
        guess.append(compose(guess[-1], between(one, two) + noise))
    surfaces = scan_surfaces([seen(room(*BLOCKS), pose) for pose in truth])

    found = align_scans(surfaces, np.array(guess), chained(np.array(guess), 0.05), [])

    off = between(truth, found)
    assert np.hypot(*(np.array(guess) - truth)[:, :2].T).max() > 0.1
    assert np.hypot(off[:, 0], off[:, 1]).max() < 0.02
    assert np.abs(off[:, 2]).max() < math.radians(0.33)


def test_a_post_beside_the_robot_moves_no_scan() -> None:
    """Half of a scan's returns lie on a post that the other scan shows with three, 8 cm too far."""
    wall = np.column_stack([np.full(60, 9.0), np.linspace(-3.0, 3.0, 60)])
    side = np.column_stack([np.linspace(3.0, 8.9, 60), np.full(60, 3.0)])
    far = np.array([[7.08, -0.1], [7.08, 0.0], [7.08, 0.1]])
    close = np.column_stack([np.full(120, 7.0), np.linspace(-0.15, 0.15, 120)])
    truth = np.array([[0.0, 0.0, 0.0], [6.6, 0.05, 0.0]])
    guess = truth + np.array([[0.0, 0.0, 0.0], [0.03, 0.02, 0.01]])
    surfaces = scan_surfaces(
        [np.vstack([wall, side, far]), np.vstack([wall, side, close]) - truth[1, :2]]
    )

    found = align_scans(surfaces, guess, chained(guess, 1.0), [])

    assert np.abs(found - truth)[1, :2].max() < 0.01
    assert abs(found[1, 2]) < math.radians(0.3)


def test_scans_without_a_surface_keep_their_chain() -> None:
    """Scans without returns, or with all returns in one direction, stay where the chain puts them."""
    poses = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.1], [1.0, 0.1, 0.2], [1.5, 0.1, 0.1]])
    ray = np.column_stack([np.linspace(1.0, 1.5, 30), np.zeros(30)])
    surfaces = scan_surfaces([np.zeros((0, 2)), ray, ray, np.array([[2.0, 0.0]])])

    found = align_scans(surfaces, poses, chained(poses, 0.05), [])

    assert np.allclose(found, poses, atol=1e-3)


def drive(poses: Transform) -> list[LogRecord]:
    """Record scans at poses, with odometry that turns too far."""
    odometry = [poses[0]]
    for one, two in pairwise(poses):
        odometry.append(compose(odometry[-1], between(one, two) + np.array([0.0, 0.0, 0.02])))
    scans = [scan_at(room(*BLOCKS), pose) for pose in poses]
    return [LogRecord(scan, pose) for scan, pose in zip(scans, odometry, strict=True)]


def test_a_replayed_log_is_aligned_when_it_is_recalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recall aligns all scans once; the poses that it reports are those of the alignment."""
    calls: list[int] = []

    def counted(
        surfaces: ScanSurfaces, poses: Transform, chain: Sequence[Edge], odometry: Sequence[Edge]
    ) -> Transform:
        calls.append(len(poses))
        return align_scans(surfaces, poses, chain, odometry)

    monkeypatch.setattr(slam_module, "align_scans", counted)
    records = drive(there_and_back())
    replay = LogReplay(records, FRAME)
    replay.deploy(to_pose(records[0].odometry))

    replay.drive((), 1000.0)
    before = replay.slam.poses.copy()
    first, second = replay.recall(), replay.recall()

    assert calls == [len(records)]
    assert not np.array_equal(before, replay.slam.poses)
    assert first.pose == second.pose
    assert np.allclose([first.pose.x, first.pose.y], replay.slam.poses[-1, :2])
    assert np.array_equal(first.patch.cells, second.patch.cells)


def test_a_turn_that_the_odometry_measures_badly_is_found() -> None:
    """In a sharp turn the odometry may be far off; a room that fits both ways needs no search of all."""
    empty, start = room(), np.array([11.0, 5.0, 0.0])
    turned = start + np.array([0.0, 0.0, 1.0])
    slam = SlamMap()
    slam.begin(scan_at(empty, start, ROUND), start)

    slam.add(scan_at(empty, turned, ROUND), np.array([0.0, 0.0, 1.5]))

    assert abs(slam.last[2] - 1.0) < math.radians(1.0)


def test_a_long_drive_through_a_hall_does_not_bend() -> None:
    """On a drive of 71 m that sees little twice the headings stay right, since straight walls are."""
    floor, quiet = draw_hall(0), OdometrySpec(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    random = np.random.default_rng(0)
    base = SimulatedBase(floor, Pose(9.5, 1.5, 0.0), random, lidar=LDS_02, odometry=quiet)
    scans = [base.scan()]
    for x, y in ((34.5, 1.5), (34.5, 22.5), (9.5, 22.5)):
        while math.hypot(x - base.truth[0], y - base.truth[1]) > 0.25:
            heading = math.atan2(y - base.truth[1], x - base.truth[0])
            _, collided = base.move(heading - base.truth[2], 0.5)
            assert not collided
            scans.append(base.scan())
    truth = np.array(base.track)

    found = align_scans(
        scan_surfaces([scan.points() for scan in scans]), truth, chained(truth, 0.05), []
    )

    off = between(between(truth[0], truth), between(found[0], found))
    assert np.abs(off[:, 2]).max() < math.radians(0.8)
