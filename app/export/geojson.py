"""A map as GeoJSON (RFC 7946): walls and free area as polygons, paths, robots and frontiers.

Polygons follow the sides of cells exactly. Without an anchor the coordinates are metres in the map
frame, which the RFC allows by prior arrangement only; the file says so.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from app.exploration.driver import Point
from app.exploration.grid import FREE, OCCUPIED, Grid, GridFrame, Mask
from app.export.anchor import Anchor
from app.missions.frames import Frame

_DEGREES_DECIMALS = 9  # a tenth of a millimetre
_METRES_DECIMALS = 4
_TRIANGLE = 3
Position = list[float]
Projection = Callable[[Point], Position]
"""Returns the coordinates of a point in the file."""


def features_of(
    frame: Frame,
    grid: GridFrame,
    paths: Mapping[str, Sequence[Point]],
    anchor: Anchor | None = None,
) -> str:
    """Return a mission's map as the text of a GeoJSON file.

    Args:
        frame: The last frame of the mission.
        grid: The pose and resolution of its cells.
        paths: The path of each robot, metres, map frame, by its name.
        anchor: Where the map lies on the Earth; without one, the coordinates are metres.
    """

    def project(point: Point) -> Position:
        if anchor is None:
            return [round(value, _METRES_DECIMALS) for value in point]
        latitude, longitude = anchor.place_of(point)
        return [round(longitude, _DEGREES_DECIMALS), round(latitude, _DEGREES_DECIMALS)]

    features = [
        _feature("MultiPolygon", _polygons(frame.cells, value, grid, project), kind=kind)
        for kind, value in (("free", FREE), ("wall", OCCUPIED))
    ]
    features += [
        _feature("LineString", [project(point) for point in path], kind="path", robot=name)
        for name, path in paths.items()
        if len(path) > 1
    ]
    features += [
        _feature(
            "Point",
            project((robot.pose.x, robot.pose.y)),
            kind="robot",
            robot=robot.name,
            driven_m=robot.driven_m,
            lost=robot.lost,
        )
        for robot in frame.robots
        if not robot.apart
    ]
    features += [_feature("Point", project(point), kind="frontier") for point in frame.frontiers]
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if anchor is None:
        collection["coordinates_are"] = "metres in the map frame, x to the right, y up"
    return json.dumps(collection) + "\n"


def _feature(kind_of_geometry: str, coordinates: Any, **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": kind_of_geometry, "coordinates": coordinates},
    }


def _polygons(
    cells: Grid, value: int, grid: GridFrame, project: Projection
) -> list[list[list[Position]]]:
    """The areas of one value: of each the outer ring, then its holes."""
    found = []
    for rings in _rings(cells == value):
        polygon = []
        for number, ring in enumerate(rings):
            points = [
                (grid.origin_x + col * grid.resolution, grid.origin_y + row * grid.resolution)
                for col, row in ring
            ]
            # The outer ring is counterclockwise, a hole clockwise; an anchor does not mirror.
            if (_area(ring) > 0) != (number == 0):
                points.reverse()
            positions = [project(point) for point in points]
            polygon.append([*positions, positions[0]])
        found.append(polygon)
    return found


def _rings(mask: Mask) -> list[list[list[tuple[int, int]]]]:
    """The corners (col, row) of each connected area: its outer ring and those of its holes."""
    # With four pixels to a cell, no wall is thinner than its contour: a contour through an even
    # pixel is at the lower side of its cell, one through an odd pixel at the upper side.
    doubled = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if hierarchy is None:
        return []
    areas: dict[int, list[list[tuple[int, int]]]] = {}
    holes = []
    for number, (contour, (_, _, _, parent)) in enumerate(zip(contours, hierarchy[0], strict=True)):
        ring = _corners((contour[:, 0] + 1) // 2)
        if len(ring) <= _TRIANGLE:
            continue
        if parent < 0:
            areas[number] = [ring]
        else:
            holes.append((int(parent), ring))
    for parent, ring in holes:
        if parent in areas:
            areas[parent].append(ring)
    return list(areas.values())


def _corners(points: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Drop points that repeat the one before, or lie between their neighbours."""
    kept = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    if not len(kept):
        return []
    before, after = kept - np.roll(kept, 1, axis=0), np.roll(kept, -1, axis=0) - kept
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    back = (before * after).sum(axis=1) < 0
    return [(int(col), int(row)) for col, row in kept[turns | back]]


def _area(ring: Sequence[tuple[int, int]]) -> float:
    """Twice the signed area of a ring; positive if it is counterclockwise."""
    x, y = np.array(ring, float).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
