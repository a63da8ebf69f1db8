"""SLAM of one robot: wrong odometry, places that look alike, and loops."""

import math
from itertools import pairwise

import numpy as np
import pytest

from app.exploration.grid import GridFrame, Mask
from app.exploration.lidar import Floats, cast_rays
from app.exploration.mapping.keyframes import Keyframe, Scan
from app.exploration.mapping.loop_closure import LoopSpec, close_loop
from app.exploration.mapping.scan_matching import likelihood_field, search
from app.exploration.mapping.slam import SlamMap, SlamSpec
from app.exploration.se2 import Transform, between, compose, wrap

FRAME = GridFrame(240, 600, 0.05)
HALF = np.linspace(-math.pi / 2, math.pi / 2, 181)
ODOMETRY = 2.0 / (SlamSpec().rest_m ** 2 + 0.4 * SlamSpec().distance_noise ** 2)  # of 0.4 m driven
ROUND = np.linspace(-math.pi, math.pi, 361)[:-1]


def room(*walls: tuple[float, float, float, float]) -> Mask:
    """Return a room of 20 by 8 m with blocks; each block is x0, y0, x1, y1 in metres."""
    blocked = np.ones((FRAME.rows, FRAME.cols), np.bool_)
    blocked[20:180, 20:420] = False
    for x0, y0, x1, y1 in walls:
        blocked[int(y0 * 20) : int(y1 * 20), int(x0 * 20) : int(x1 * 20)] = True
    return blocked


FURNISHED = room((4, 1, 4.6, 3), (9, 6, 10, 9), (13, 1, 13.4, 4), (15, 7, 17, 7.5))


def scan_at(blocked: Mask, pose: Transform, *, beams: Floats = HALF, reach: float = 30.0) -> Scan:
    """Take a scan."""
    x, y, heading = (float(value) for value in pose)
    return Scan(beams, cast_rays(blocked, FRAME, (x, y), beams + heading, reach=reach), reach)


def track(*, steps: int = 12) -> list[Transform]:
    """Return true poses along a slow bend, 0.4 m apart."""
    poses = [np.array([3.0, 5.0, 0.1])]
    for _ in range(steps):
        poses.append(compose(poses[-1], np.array([0.4, 0.0, -0.02])))
    return poses


@pytest.mark.parametrize("wrong", [math.radians(80.0), math.radians(-50.0)])
def test_a_turn_that_the_odometry_missed_is_found(wrong: float) -> None:
    """One step is far off in heading; the next pose is right within 5 cm and half a degree."""
    poses = track()
    slam = SlamMap()
    slam.begin(scan_at(FURNISHED, poses[0]), poses[0])

    for index, (before, after) in enumerate(pairwise(poses)):
        motion = between(before, after)
        if index == 8:
            motion = motion + np.array([0.2, -0.3, wrong])
        slam.add(scan_at(FURNISHED, after), motion)
    slam.solve()

    off = between(poses[-1], slam.last)
    assert np.hypot(off[0], off[1]) < 0.05
    assert abs(off[2]) < math.radians(0.5)


def test_a_place_that_fits_both_ways_keeps_the_odometry() -> None:
    """In an empty room a wrong turn has two explanations, half a turn apart; neither is taken."""
    empty = room()
    middle = np.array([11.0, 5.0, 0.0])
    slam = SlamMap()
    slam.begin(scan_at(empty, middle, beams=ROUND), middle)

    slam.add(scan_at(empty, middle, beams=ROUND), np.array([0.0, 0.0, math.radians(70.0)]))

    assert abs(wrap(slam.last[2] - math.radians(70.0))) < math.radians(25.0)


def test_a_symmetric_room_has_a_rival() -> None:
    """In an empty room a scan of all sides fits in the other direction; in a furnished one it has one place."""
    scores = {}
    for name, blocked in (("empty", room()), ("furnished", FURNISHED)):
        middle = np.array([11.0, 5.0, 0.0])
        points = scan_at(blocked, middle, beams=ROUND).points()
        corners = np.array([[-1.0, -2.0], [22.0, 12.0]])
        field = likelihood_field([points], middle[None], corners, margin=1.5)
        scores[name] = search(field, points, middle, window=1.0, turn=math.pi, rival=True)

    assert scores["empty"].rival > 0.9
    assert scores["furnished"].score > 0.9
    assert scores["furnished"].rival < 0.75


def loop_between(blocked: Mask, *, reach: float = 6.0) -> bool:
    """Drive twice past one place; return whether the second visit closes a loop with the first."""
    poses = np.array([[4.0 + 0.5 * step, 5.0, 0.0] for step in range(24)])
    scans = [scan_at(blocked, pose, reach=reach) for pose in poses]
    keyframes = [Keyframe(0.0, scan, scan.points()) for scan in scans]
    again = scan_at(blocked, poses[8], reach=reach)
    keyframes.append(Keyframe(20.0, again, again.points()))
    guess = poses[8] + np.array([0.2, 0.1, 0.05])
    found = close_loop(keyframes, np.vstack([poses, guess]), 8, LoopSpec())
    if found is None:
        return False
    assert np.abs(found[0].motion).max() < 0.05
    return True


def test_a_loop_needs_a_place_that_looks_like_no_other() -> None:
    """A bare corridor, and one whose walls repeat, close no loop; a furnished room does."""
    walls = ((1.0, 1.0, 21.0, 3.6), (1.0, 6.4, 21.0, 9.0))
    posts = [(1.2 + 0.6 * n, 3.6, 1.4 + 0.6 * n, 3.8) for n in range(32)]

    assert not loop_between(room(*walls))
    assert not loop_between(room(*walls, *posts))
    assert loop_between(FURNISHED, reach=30.0)


def test_a_doubtful_match_weighs_less() -> None:
    """A scan that fits half as well as usual binds the map less than one that fits."""
    poses = track()
    changed = room((4, 1, 4.6, 3), (6.5, 3.5, 7.5, 4.2), (9, 3, 9.3, 4.5), (8, 6, 8.4, 8))
    weights: dict[str, float] = {}
    for name, blocked in (("as before", FURNISHED), ("changed", changed)):
        slam = SlamMap()
        slam.begin(scan_at(FURNISHED, poses[0]), poses[0])
        for before, after in pairwise(poses):
            seen = blocked if after is poses[-1] else FURNISHED
            slam.add(scan_at(seen, after), between(before, after))
        weights[name] = np.trace(slam.graph.edges[-1].information[:2, :2]) - ODOMETRY

    assert weights["changed"] < 0.1 * weights["as before"]
