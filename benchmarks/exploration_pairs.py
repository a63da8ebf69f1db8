"""Pairs of maps cut from floors, in their own frames, with the true relative pose."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.exploration.clearance import traversable_cells
from app.exploration.driver import Pose
from app.exploration.grid import FREE, FloorMap, Grid, GridFrame, Mask
from app.exploration.mapping.keyframes import Keyframe, Scan, draw_keyframes
from app.exploration.merging.evidence import occupancy
from app.exploration.se2 import Transform, between
from app.exploration.shortest_paths import UNREACHED, distance_field, path_to
from app.exploration.simulation.simulated_base import SimulatedBase

_SCAN_EVERY = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A map that one robot made: scans at true poses, and the free cells that they show."""

    keyframes: list[Keyframe]
    poses: Transform
    known: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two maps in their own frames; `truth` is the second's frame in the first's, or None."""

    floors: str
    overlap: float
    grids: tuple[Grid, Grid]
    frames: tuple[GridFrame, GridFrame]
    truth: Transform | None


def random_tour(
    floor: FloorMap, random: np.random.Generator, total_m: float
) -> list[tuple[float, float]]:
    """Drive shortest paths between random places up to a total length; points 0.5 m apart."""
    fits = traversable_cells(floor, 0.2)
    cells = np.argwhere(fits)
    at = tuple(int(i) for i in cells[random.integers(len(cells))])
    points: list[tuple[float, float]] = [floor.frame.centre(*at)]
    driven = 0.0
    for _ in range(50):
        if driven >= total_m:
            break
        field = distance_field(fits, (at[0], at[1]))
        to = tuple(int(i) for i in cells[random.integers(len(cells))])
        if field[to] == UNREACHED:
            continue
        waypoints = path_to(field, fits, (at[0] + 0.5, at[1] + 0.5), (to[0], to[1]))
        for row, col in waypoints:
            x, y = floor.frame.centre(row, col)
            length = math.dist(points[-1], (x, y))
            steps = max(1, math.ceil(length / _SCAN_EVERY))
            x0, y0 = points[-1]
            for step in range(1, steps + 1):
                if driven >= total_m:
                    break
                points.append((x0 + (x - x0) * step / steps, y0 + (y - y0) * step / steps))
                driven += length / steps
        at = to
    return points


def scanned(floor: FloorMap, random: np.random.Generator, total_m: float) -> Piece:
    """Scan along a random tour."""
    points = random_tour(floor, random, total_m)
    base = SimulatedBase(floor, Pose(*points[0]), random, radius=0.1)
    scans: list[Scan] = []
    poses = []
    for x, y in points:
        base.truth = np.array([x, y, random.uniform(-3.0, 3.0)])
        scans.append(base.scan())
        poses.append(base.truth)
    keyframes = [Keyframe(0.0, scan, scan.points()) for scan in scans]
    evidence = np.zeros(floor.grid.shape, np.int8)
    draw_keyframes(evidence, floor.frame, keyframes, np.array(poses))
    return Piece(keyframes, np.array(poses), (evidence != 0) & (floor.grid == FREE))


def drawn(
    piece: Piece, random: np.random.Generator, resolution: float
) -> tuple[Grid, GridFrame, Transform]:
    """Draw a piece in a random frame; return the grid, its frame, and that frame in the floor's."""
    frame_at: Transform = np.array([*random.uniform(-20.0, 20.0, 2), random.uniform(-3.14, 3.14)])
    return (*redrawn(piece.keyframes, between(frame_at, piece.poses), resolution), frame_at)


def redrawn(
    keyframes: list[Keyframe], poses: Transform, resolution: float
) -> tuple[Grid, GridFrame]:
    """Draw keyframes on the smallest grid that holds them."""
    reach = max(keyframe.scan.reach for keyframe in keyframes) + 1.0
    low, high = poses[:, :2].min(axis=0) - reach, poses[:, :2].max(axis=0) + reach
    cols, rows = (int(n) for n in np.ceil((high - low) / resolution))
    frame = GridFrame(rows, cols, resolution, float(low[0]), float(low[1]))
    evidence = np.zeros((rows, cols), np.int8)
    draw_keyframes(evidence, frame, keyframes, poses)
    return occupancy(evidence), frame


def overlap_of(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Return the overlap of the known free areas: intersection over union."""
    either = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / max(either, 1)


def make_pair(names: str, one: Piece, two: Piece, floor: FloorMap, seed: list[int]) -> Pair:
    """Move two pieces into random frames; pieces of one floor get their true relative pose."""
    random = np.random.default_rng(seed)
    grid_one, frame_one, at_one = drawn(one, random, floor.frame.resolution)
    grid_two, frame_two, at_two = drawn(two, random, floor.frame.resolution)
    same = one.known.shape == two.known.shape and "|" not in names
    return Pair(
        names,
        overlap_of(one.known, two.known) if same else 0.0,
        (grid_one, grid_two),
        (frame_one, frame_two),
        between(at_one, at_two) if same else None,
    )


def _kind(name: str) -> str:
    """Return the kind of a floor, such as `office` for `office-3`."""
    return name.partition("-")[0]


def pairs_of(
    floors: dict[str, FloorMap], seed: int, *, wide: int, narrow: int, disjoint: int, foreign: int
) -> Iterator[Pair]:
    """Cut pairs from floors in turn until there are enough of each kind.

    Args:
        floors: by name.
        seed: equal seeds give equal pairs.
        wide: number of pairs with an overlap of at least 0.3.
        narrow: number of pairs with an overlap of 0.1 to 0.3.
        disjoint: number of pairs of one floor without overlap.
        foreign: number of pairs of different floors, every other one of the same kind, such as two
            offices.
    """
    wanted = {"wide": wide, "narrow": narrow, "disjoint": disjoint}
    names = list(floors)
    pieces: dict[str, Piece] = {}
    for count in range(40 * (wide + narrow + disjoint + foreign)):
        name = names[count % len(names)]
        floor = floors[name]
        random = np.random.default_rng([seed, count])
        one = scanned(floor, random, float(random.uniform(6.0, 22.0)))
        two = scanned(floor, random, float(random.uniform(6.0, 22.0)))
        share = overlap_of(one.known, two.known)
        kind = (
            "wide"
            if share >= 0.3
            else "narrow"
            if share >= 0.1
            else "disjoint"
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
