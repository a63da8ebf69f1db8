"""Joint maps: robots' maps in their own frames, merged into as few maps as possible."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridFrame, LogOdds
from app.exploration.merging.consensus import MapGroup, group_maps
from app.exploration.merging.evidence import occupancy, transform_layer
from app.exploration.merging.registration import DEFAULT_GATE, RegistrationGate
from app.exploration.se2 import IDENTITY, Transform, apply

_RIM = 4  # unknown cells around a map


@dataclass(frozen=True, slots=True, eq=False)
class JointMap:
    """One map of one or several robots, in the frame of the first of them.

    Attributes:
        members: the robots, ascending.
        transforms: (members, 3) from each robot's own frame to the map's.
        grid: (rows, cols) int8 occupancy.
        frame: where the grid lies.
    """

    members: tuple[int, ...]
    transforms: Transform
    grid: Grid
    frame: GridFrame


def joint_maps(
    layers: Sequence[LogOdds], frame: GridFrame, gate: RegistrationGate = DEFAULT_GATE
) -> list[JointMap]:
    """Register the robots' maps, and draw one map of each group that belongs together.

    Args:
        layers: each (rows, cols) int8 log-odds units, in its robot's own frame.
        frame: the same for all, each around its robot's start.
        gate: what a registration must show to be accepted.

    Returns:
        The maps, largest known area first; one map if all belong together.
    """
    maps = [(occupancy(layer), frame) for layer in layers]
    known = [index for index, (grid, _) in enumerate(maps) if (grid != UNKNOWN).any()]
    groups = [
        MapGroup(tuple(known[member] for member in group.members), group.transforms)
        for group in group_maps([maps[index] for index in known], gate)
    ]
    groups += [
        MapGroup((index,), IDENTITY[None]) for index in range(len(maps)) if index not in known
    ]
    drawn = [_drawn(group, layers, frame) for group in groups]
    return sorted(drawn, key=lambda one: -int(np.count_nonzero(one.grid != UNKNOWN)))


def _drawn(group: MapGroup, layers: Sequence[LogOdds], frame: GridFrame) -> JointMap:
    """Add the evidence of a group on the smallest grid that holds it."""
    resolution = frame.resolution
    corners = []
    for member, transform in zip(group.members, group.transforms, strict=True):
        rows = np.flatnonzero(layers[member].any(axis=1))
        cols = np.flatnonzero(layers[member].any(axis=0))
        if rows.size:
            x0, y0 = frame.centre(int(rows[0]), int(cols[0]))
            x1, y1 = frame.centre(int(rows[-1]), int(cols[-1]))
            corners.append(apply(transform, np.array([(x0, y0), (x0, y1), (x1, y0), (x1, y1)])))
    around = np.vstack([*corners, np.zeros((1, 2))])
    row0, col0 = frame.cell(*around.min(axis=0))
    row1, col1 = frame.cell(*around.max(axis=0))
    target = GridFrame(
        row1 - row0 + 1 + 2 * _RIM,
        col1 - col0 + 1 + 2 * _RIM,
        resolution,
        frame.origin_x + (col0 - _RIM) * resolution,
        frame.origin_y + (row0 - _RIM) * resolution,
    )
    total = np.zeros((target.rows, target.cols), np.int16)
    for member, transform in zip(group.members, group.transforms, strict=True):
        total += transform_layer(layers[member], frame, transform, target)
    return JointMap(group.members, group.transforms, occupancy(total), target)


def project_onto_floor(joint: JointMap, start: Transform, floor: GridFrame) -> Grid:
    """Project a map onto a floor by the true start of its first member, to evaluate it there.

    Args:
        joint: the map.
        start: (3,) from the first member's frame to the floor's.
        floor: the floor's frame.

    Returns:
        (rows, cols) int8 occupancy of the floor's shape.
    """
    evidence = np.zeros(joint.grid.shape, np.int8)
    evidence[joint.grid == FREE] = -1
    evidence[joint.grid == OCCUPIED] = 1
    return occupancy(transform_layer(evidence, joint.frame, start, floor))
