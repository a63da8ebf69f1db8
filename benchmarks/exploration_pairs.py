"""Pairs of maps cut from floors and from a log, in frames of their own, with the right answer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.exploration.driver import Pose
from app.exploration.grid import FREE, FloorMap, Grid, GridFrame, Mask
from app.exploration.mapping.keyframes import Keyframe, Scan, draw
from app.exploration.merging.evidence import occupancy
from app.exploration.planning.paths import UNREACHED, distance_field, path_to
from app.exploration.se2 import Transform, between
from app.exploration.simulation.mobile_base import SimulatedBody
from app.exploration.simulation.simulated_robot import standing_room

_SCAN_EVERY = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A map that one robot made: scans at true poses, and what they show of the floor."""

    keyframes: list[Keyframe]
    poses: Transform
    known: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two maps in frames of their own; `truth` is the second's frame in the first's, or None."""

    floors: str
    overlap: float
    grids: tuple[Grid, Grid]
    frames: tuple[GridFrame, GridFrame]
    truth: Transform | None


def tour(floor: FloorMap, random: np.random.Generator, way: float) -> list[tuple[float, float]]:
    """Drive shortest ways between random places until a length is reached; points 0.5 m apart."""
    room = standing_room(floor, 0.2)
    cells = np.argwhere(room)
    at = tuple(int(i) for i in cells[random.integers(len(cells))])
    points: list[tuple[float, float]] = [floor.frame.centre(*at)]
    driven = 0.0
    for _ in range(50):
        if driven >= way:
            break
        field = distance_field(room, (at[0], at[1]))
        to = tuple(int(i) for i in cells[random.integers(len(cells))])
        if field[to] == UNREACHED:
            continue
        stations = path_to(field, room, (at[0] + 0.5, at[1] + 0.5), (to[0], to[1]))
        for row, col in stations:
            x, y = floor.frame.centre(row, col)
            length = math.dist(points[-1], (x, y))
            steps = max(1, math.ceil(length / _SCAN_EVERY))
            x0, y0 = points[-1]
            for step in range(1, steps + 1):
                if driven >= way:
                    break
                points.append((x0 + (x - x0) * step / steps, y0 + (y - y0) * step / steps))
                driven += length / steps
        at = to
    return points


def explored(floor: FloorMap, random: np.random.Generator, way: float) -> Piece:
    """Scan along a tour."""
    points = tour(floor, random, way)
    body = SimulatedBody(floor, Pose(*points[0]), random, radius=0.1)
    scans: list[Scan] = []
    poses = []
    for x, y in points:
        body.truth = np.array([x, y, random.uniform(-3.0, 3.0)])
        scans.append(body.scan())
        poses.append(body.truth)
    keyframes = [Keyframe(0, 0.0, scan, scan.points()) for scan in scans]
    evidence = np.zeros(floor.grid.shape, np.int8)
    draw(evidence, floor.frame, keyframes, np.array(poses))
    return Piece(keyframes, np.array(poses), (evidence != 0) & (floor.grid == FREE))


def drawn(
    piece: Piece, random: np.random.Generator, resolution: float
) -> tuple[Grid, GridFrame, Transform]:
    """Draw a piece in a random frame; returns that frame in the floor's, too."""
    frame_at: Transform = np.array([*random.uniform(-20.0, 20.0, 2), random.uniform(-3.14, 3.14)])
    return (*redrawn(piece.keyframes, between(frame_at, piece.poses), resolution), frame_at)


def redrawn(
    keyframes: list[Keyframe], poses: Transform, resolution: float
) -> tuple[Grid, GridFrame]:
    """Draw keyframes on a grid that just holds them."""
    reach = max(keyframe.scan.reach for keyframe in keyframes) + 1.0
    low, high = poses[:, :2].min(axis=0) - reach, poses[:, :2].max(axis=0) + reach
    cols, rows = (int(n) for n in np.ceil((high - low) / resolution))
    frame = GridFrame(rows, cols, resolution, float(low[0]), float(low[1]))
    evidence = np.zeros((rows, cols), np.int8)
    draw(evidence, frame, keyframes, poses)
    return occupancy(evidence), frame


def share_common(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Return the free ground known to both over that known to either (intersection over union)."""
    either = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / max(either, 1)


def make_pair(names: str, one: Piece, two: Piece, floor: FloorMap, seed: list[int]) -> Pair:
    """Put two pieces into random frames; pieces of one floor get their true relation."""
    random = np.random.default_rng(seed)
    grid_one, frame_one, at_one = drawn(one, random, floor.frame.resolution)
    grid_two, frame_two, at_two = drawn(two, random, floor.frame.resolution)
    same = one.known.shape == two.known.shape and "|" not in names
    return Pair(
        names,
        share_common(one.known, two.known) if same else 0.0,
        (grid_one, grid_two),
        (frame_one, frame_two),
        between(at_one, at_two) if same else None,
    )


def _kind(name: str) -> str:
    """Return what a floor is, such as `office` for `office-3`."""
    return name.partition("-")[0]


def pairs_of(
    floors: dict[str, FloorMap], seed: int, *, wide: int, narrow: int, apart: int, foreign: int
) -> Iterator[Pair]:
    """Cut pairs from floors in turn until each kind has been met often enough.

    Args:
        floors: by name.
        seed: equal seeds give equal pairs.
        wide: pairs with an overlap of at least 0.3.
        narrow: pairs with an overlap of 0.1 to 0.3.
        apart: pairs of one floor without overlap.
        foreign: pairs of different floors, every other one of the same kind, such as two offices.
    """
    wanted = {"wide": wide, "narrow": narrow, "apart": apart}
    names = list(floors)
    pieces: dict[str, Piece] = {}
    for count in range(40 * (wide + narrow + apart + foreign)):
        name = names[count % len(names)]
        floor = floors[name]
        random = np.random.default_rng([seed, count])
        one = explored(floor, random, float(random.uniform(6.0, 22.0)))
        two = explored(floor, random, float(random.uniform(6.0, 22.0)))
        share = share_common(one.known, two.known)
        kind = (
            "wide"
            if share >= 0.3
            else "narrow"
            if share >= 0.1
            else "apart"
            if share == 0.0
            else ""
        )
        if wanted.get(kind, 0) > 0:
            wanted[kind] -= 1
            yield make_pair(name, one, two, floor, [seed, count, 1])
        kin = [other for other in pieces if other != name and _kind(other) == _kind(name)]
        others = kin if count % 2 else [other for other in pieces if other != name]
        if foreign > 0 and others:
            other = others[int(random.integers(len(others)))]
            foreign -= 1
            yield make_pair(f"{name}|{other}", one, pieces[other], floor, [seed, count, 2])
        pieces[name] = two
        if foreign == 0 and not any(wanted.values()):
            return
