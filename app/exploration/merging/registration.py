"""Bringing two maps of unrelated frames together, or finding that they do not fit.

Every guess is climbed to its best fit, and the one that the walls of both maps support best is
returned with the figures that a gate needs: what both maps say of each other there (`agreement`),
and how much of it could not be elsewhere just as well (`distinction`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.exploration.grid import Grid, GridFrame
from app.exploration.merging.agreement import common_ground, conflict, support, warp
from app.exploration.merging.candidates import by_correlation, by_features
from app.exploration.merging.icp import climb
from app.exploration.merging.map_features import Sheet, sheet
from app.exploration.merging.perceptual_aliasing import distinct_share, same_place
from app.exploration.se2 import Transform, inverse

_TURNS = 180
_PEAKS = 8
_REACHES = (0.8, 0.5, 0.3, 0.15)  # metres within which walls are paired, one climb after the other
_LAST = (0.25, 0.15)
_FEW = 500  # points of each map by which guesses are climbed and ranked
_FINAL = 8  # places that are climbed and ranked by all
_BLAME = 12.0  # metres of common wall that a metre of contradiction outweighs
_BLOCKS = 40.0  # and a metre of it in one piece, among the last ones
_DOTS = 0.15  # metres between stray dots that may look like one piece
_GROUND = 0.05  # and that a square metre of common ground is worth, among guesses


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """Where one map lies in another's frame, and how far that can be trusted.

    Attributes:
        transform: (3,) of the second map's frame in the first's.
        walls: metres of wall that both maps show in the same place.
        agreement: share of the walls in ground known to both that both show, 0 to 1.
        distinct: metres of the common wall that would fit nowhere else in either map.
        conflict: metres from end to end of the longest wall of one deep in the other's free ground.
        warp: metres by which pieces of common wall lie beside each other, RMS.
    """

    transform: Transform
    walls: float
    agreement: float
    distinct: float
    conflict: float
    warp: float


def register(
    first: Grid, first_frame: GridFrame, second: Grid, second_frame: GridFrame
) -> Registration | None:
    """Find where the second map lies in the first's frame.

    Args:
        first: (rows, cols) int8 occupancy.
        first_frame: where it lies.
        second: (rows, cols) int8 occupancy.
        second_frame: where it lies.

    Returns:
        The best fit, right or wrong, see `Gate`; None where a map shows no wall.
    """
    one, two = sheet(first, first_frame), sheet(second, second_frame)
    if one is None or two is None:
        return None
    few, others = _thinned(one), _thinned(two)
    guesses = [*by_correlation(one, two, turns=_TURNS, peaks=_PEAKS), *by_features(one, two)]
    poses = [climb(one, others.walls, others.facing, guess, reaches=_REACHES) for guess in guesses]
    poses.sort(key=lambda pose: _promise(few, others, pose), reverse=True)
    pose = max(
        [climb(one, two.walls, two.facing, pose, reaches=_LAST) for pose in _places(poses, two)],
        key=lambda pose: (
            _promise(one, two, pose) - _BLOCKS * max(0.0, _conflict(one, two, pose) - _DOTS)
        ),
    )
    hits, misses = support(one, two, pose)
    return Registration(
        transform=pose,
        walls=hits,
        agreement=hits / max(hits + misses, 1e-9),
        distinct=hits * distinct_share(one, two, pose),
        conflict=_conflict(one, two, pose),
        warp=warp(one, two, pose),
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """What a registration must show to be believed.

    The defaults were fixed on maps of other floors than the ones they are tested on, see
    `benchmarks/exploration_merging.py`.

    Attributes:
        distinct: least metres of common wall that would fit nowhere else.
        share: least share of it that would; twins are never seen quite alike.
        agreement: least share of walls that agree.
        warp: most metres by which pieces of common wall lie beside each other.
        conflict: most metres, from end to end, of a wall deep in the other's free ground.
        moved: or so many a metre of common wall, for in a real building things move.
    """

    distinct: float = 1.0
    share: float = 0.08
    agreement: float = 0.95
    warp: float = 0.045
    conflict: float = _DOTS
    moved: float = 0.0075

    def accepts(self, found: Registration) -> bool:
        """Tell whether maps may be merged so."""
        return (
            found.distinct >= max(self.distinct, self.share * found.walls)
            and found.agreement >= self.agreement
            and found.warp <= self.warp
            and found.conflict <= max(self.conflict, self.moved * found.walls)
        )


DEFAULT_GATE = Gate()


def _places(poses: Sequence[Transform], two: Sheet) -> list[Transform]:
    """Return the first of all poses that put the second map into different places."""
    middle = two.walls.mean(axis=0, keepdims=True)
    places: list[Transform] = []
    for pose in poses:
        if not any(same_place(pose, other, middle) for other in places):
            places.append(pose)
            if len(places) == _FINAL:
                break
    return places


def _conflict(one: Sheet, two: Sheet, pose: Transform) -> float:
    """Return metres of the longest contradiction in one piece, of either map."""
    return max(conflict(one, two, pose), conflict(two, one, inverse(pose)))


def _promise(one: Sheet, two: Sheet, pose: Transform) -> float:
    """Weigh what speaks for a pose, in metres of wall."""
    hits, misses = support(one, two, pose)
    ground = two.ground_m2 * float(common_ground(one, two, pose).mean()) if len(two.ground) else 0.0
    return hits - _BLAME * misses + _GROUND * ground


def _thinned(whole: Sheet) -> Sheet:
    """Keep some of a map's points of wall and of ground, evenly."""
    walls, ground = (max(1, len(part) // _FEW) for part in (whole.walls, whole.ground))
    return replace(
        whole,
        walls=whole.walls[::walls],
        facing=whole.facing[::walls],
        wall_m=whole.wall_m * walls,
        ground=whole.ground[::ground],
    )
