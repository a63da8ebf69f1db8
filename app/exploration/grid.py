"""The occupancy grid: cell values, the frame that places cells, a named floor.

Row 0 has the lowest y and column 0 the lowest x, so that an index grows with its coordinate.
Images store the top row first; only code that reads or writes images flips them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import cos, floor, inf, isfinite, sin
from typing import Any, Self

import numpy as np
import numpy.typing as npt

UNKNOWN = -1
FREE = 0
OCCUPIED = 100
# The largest grid that is read from elsewhere.
MAX_CELLS = 16_000_000
_CORNER = 1e-6  # cells; borders that are crossed this close to each other are a corner

Grid = npt.NDArray[np.int8]
"""Occupancy, (rows, cols) int8 of UNKNOWN, FREE or OCCUPIED, as in ROS `nav_msgs/OccupancyGrid`."""

Cell = tuple[int, int]
"""Row and column."""

Cells = npt.NDArray[np.int32]
"""Rows and columns, (n, 2) int32."""

Mask = npt.NDArray[np.bool_]
"""A set of cells, (rows, cols) bool."""

LogOdds = npt.NDArray[np.int8]
"""Evidence, (rows, cols) int8: units of 0.05, above 0 occupied, below 0 free, 0 never seen."""


@dataclass(frozen=True, slots=True)
class GridFrame:
    """Where a grid lies in the map frame: metres, x to the right, y up.

    Attributes:
        rows: number of cells along y.
        cols: number of cells along x.
        resolution: side of a cell, metres.
        origin_x: x of the lower left corner of cell (0, 0), metres.
        origin_y: y of the lower left corner of cell (0, 0), metres.
    """

    rows: int
    cols: int
    resolution: float
    origin_x: float = 0.0
    origin_y: float = 0.0

    def cell(self, x: float, y: float) -> Cell:
        """Return the (row, col) that holds a point; it may lie outside the grid."""
        col = floor((x - self.origin_x) / self.resolution)
        row = floor((y - self.origin_y) / self.resolution)
        return row, col

    def centre(self, row: float, col: float) -> tuple[float, float]:
        """Return the (x, y) of a cell's centre, metres."""
        return (
            self.origin_x + (col + 0.5) * self.resolution,
            self.origin_y + (row + 0.5) * self.resolution,
        )

    def in_cells(self, x: float, y: float) -> tuple[float, float]:
        """Return the continuous (row, col) of a point; a cell's centre is at index + 0.5."""
        return (y - self.origin_y) / self.resolution, (x - self.origin_x) / self.resolution

    def next_cell(self, x: float, y: float, heading: float) -> Cell:
        """Return the (row, col) that a point enters next; it may lie outside the grid.

        Args:
            x: of the point, metres.
            y: of the point, metres.
            heading: in which it moves, radians. Through a corner it enters the cell across.
        """
        row, col = self.in_cells(x, y)
        at_row, at_col = floor(row), floor(col)
        up, right = sin(heading), cos(heading)
        to_row = (at_row + (up > 0) - row) / up if up else inf
        to_col = (at_col + (right > 0) - col) / right if right else inf
        if to_row < to_col + _CORNER:
            at_row += 1 if up > 0 else -1
        if to_col < to_row + _CORNER:
            at_col += 1 if right > 0 else -1
        return at_row, at_col

    def contains(self, row: int, col: int) -> bool:
        """Return whether a cell lies inside the grid."""
        return 0 <= row < self.rows and 0 <= col < self.cols

    def to_dict(self) -> dict[str, Any]:
        """Return the frame as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a frame from the values that `to_dict` returned.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: a value is of another type, not finite, or out of range.
        """
        frame = cls(**values)
        for name in ("rows", "cols"):
            count = getattr(frame, name)
            if type(count) is not int or not 0 < count <= MAX_CELLS:
                raise ValueError(f"{name} is {count!r:.40}, not a number of cells")
        if frame.rows * frame.cols > MAX_CELLS:
            raise ValueError(f"{frame.rows} x {frame.cols} are more than {MAX_CELLS:,} cells")
        for name in ("resolution", "origin_x", "origin_y"):
            number = getattr(frame, name)
            if type(number) not in {int, float} or not isfinite(number):
                raise ValueError(f"{name} is {number!r:.40}, not a finite number")
        if frame.resolution <= 0:
            raise ValueError(f"resolution is {frame.resolution}, not a length in metres")
        return frame


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open rectangle of cells: rows row0 to row1, columns col0 to col1."""

    row0: int
    col0: int
    row1: int
    col1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rectangle as an index of a (rows, cols) array."""
        return slice(self.row0, self.row1), slice(self.col0, self.col1)

    def union(self, other: "Box") -> "Box":
        """Return the smallest box that holds both."""
        return Box(
            min(self.row0, other.row0),
            min(self.col0, other.col0),
            max(self.row1, other.row1),
            max(self.col1, other.col1),
        )


def bounding_box(mask: npt.NDArray[np.generic]) -> Box | None:
    """Return the smallest box around all cells that are not zero, None if there are none."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)


@dataclass(frozen=True, slots=True, eq=False)
class FloorMap:
    """A floor with its name.

    Attributes:
        name: the map's name, the stem of its file.
        grid: (rows, cols) int8 occupancy, row 0 lowest.
        frame: where the grid lies.
    """

    name: str
    grid: Grid
    frame: GridFrame
