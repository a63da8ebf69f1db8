"""Floor plans drawn from a seed: offices, a campus of offices, and rows of small rooms.

Walls and furniture are solid, and the outside is unknown, as in a map that a robot made.
"""

from dataclasses import dataclass

import numpy as np

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, FloorMap, Grid, GridFrame

_WALL = 0.15
_DOOR = 0.95
_CORRIDOR = 1.9
_MARGIN = 0.5  # metres of unknown cells around the building
_CAMPUS_WING = (30.0, 16.0)
_PASSAGE = 2.5


@dataclass(frozen=True, slots=True)
class _Room:
    """The inner walls of a room: metres from the building's lower left corner."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def width(self) -> float:
        return self.right - self.left


class FloorDrawing:
    """A grid to draw rectangles on, in metres from the building's lower left corner."""

    def __init__(self, width: float, height: float, resolution: float) -> None:
        cols = round((width + 2 * _MARGIN) / resolution)
        rows = round((height + 2 * _MARGIN) / resolution)
        self.frame = GridFrame(rows, cols, resolution, -_MARGIN, -_MARGIN)
        self.grid: Grid = np.full((rows, cols), UNKNOWN, np.int8)
        self.fill(0.0, 0.0, width, height, OCCUPIED)

    def fill(self, left: float, bottom: float, right: float, top: float, value: int) -> None:
        """Set every cell of a rectangle."""
        resolution = self.frame.resolution
        rows = slice(round((bottom + _MARGIN) / resolution), round((top + _MARGIN) / resolution))
        cols = slice(round((left + _MARGIN) / resolution), round((right + _MARGIN) / resolution))
        self.grid[rows, cols] = value

    def clear(self, area: _Room) -> None:
        """Hollow out a room."""
        self.fill(area.left, area.bottom, area.right, area.top, FREE)

    def block(self, x: float, y: float, width: float, height: float) -> None:
        """Place a solid rectangle with its centre at (x, y)."""
        self.fill(x - width / 2, y - height / 2, x + width / 2, y + height / 2, OCCUPIED)


def draw_rooms(rooms: int, *, side: float = 3.0, resolution: float = 0.05) -> FloorMap:
    """Draw a row of square rooms, each joined to the next by a door in the middle of its wall.

    Args:
        rooms: number of rooms, at least one.
        side: of a room, metres.
        resolution: metres per cell.

    Returns:
        A floor named `rooms`.
    """
    drawing = FloorDrawing(rooms * side + (rooms + 1) * _WALL, side + 2 * _WALL, resolution)
    for index in range(rooms):
        left = _WALL + index * (side + _WALL)
        drawing.clear(_Room(left, _WALL, left + side, _WALL + side))
        if index > 0:
            middle = _WALL + side / 2
            drawing.fill(left - _WALL, middle - _DOOR / 2, left, middle + _DOOR / 2, FREE)
    return FloorMap("rooms", drawing.grid, drawing.frame)


def draw_office(
    seed: int, *, width: float = 20.0, height: float = 14.0, resolution: float = 0.05
) -> FloorMap:
    """Draw an office floor: a corridor, closed offices above, larger shared rooms below.

    Args:
        seed: equal seeds give equal floors.
        width: of the building, metres, at least 16.
        height: of the building, metres, at least 12.
        resolution: metres per cell.

    Returns:
        A floor named `office`.
    """
    drawing = FloorDrawing(width, height, resolution)
    _wing(drawing, np.random.default_rng(seed), _Room(0.0, 0.0, width, height))
    return FloorMap("office", drawing.grid, drawing.frame)


def draw_campus(seed: int, *, resolution: float = 0.05) -> FloorMap:
    """Draw four offices, two on each side of a passage that their corridors open into.

    Args:
        seed: equal seeds give equal floors.
        resolution: metres per cell.

    Returns:
        A floor named `campus`, 62.5 by 32 metres.
    """
    random = np.random.default_rng([seed, 3])
    width, height = _CAMPUS_WING
    drawing = FloorDrawing(2 * width + _PASSAGE, 2 * height, resolution)
    drawing.clear(_Room(width, _WALL, width + _PASSAGE, 2 * height - _WALL))
    for left, inner in ((0.0, width - _WALL), (width + _PASSAGE, width + _PASSAGE)):
        for bottom in (0.0, height):
            plot = _Room(left, bottom, left + width, bottom + height)
            corridor = _wing(drawing, random, plot)
            drawing.fill(inner, corridor.bottom, inner + _WALL, corridor.top, FREE)
    return FloorMap("campus", drawing.grid, drawing.frame)


def _wing(drawing: FloorDrawing, random: np.random.Generator, plot: _Room) -> _Room:
    """Build an office on a plot, walls included; return its corridor."""
    height = plot.top - plot.bottom
    low = plot.bottom + round(height * float(random.uniform(0.42, 0.47)), 1)
    corridor = _Room(plot.left + _WALL, low, plot.right - _WALL, low + _CORRIDOR)
    drawing.clear(corridor)

    upper = _Room(plot.left, low + _CORRIDOR + _WALL, plot.right, plot.top - _WALL)
    offices = _row(random, upper, shares=(1, 1, 1.3, 1, 1))
    for index, area in enumerate(offices):
        drawing.clear(area)
        door = _position_on_wall(random, area.left + 0.7, area.right - 0.7)
        drawing.fill(door - _DOOR / 2, area.bottom - _WALL, door + _DOOR / 2, area.bottom, FREE)
        if index == len(offices) // 2:
            _meeting_room(drawing, area)
        else:
            _desks(drawing, random, area)

    lower = _Room(plot.left, plot.bottom + _WALL, plot.right, low - _WALL)
    shared = _row(random, lower, shares=(1, 2.2, 1.3))
    for area in shared:
        drawing.clear(area)
    kitchen, hall, lounge = shared
    for area in (kitchen, lounge):
        door = _position_on_wall(random, area.left + 0.9, area.right - 0.9)
        drawing.fill(door - _DOOR / 2, area.top, door + _DOOR / 2, area.top + _WALL, FREE)
    for share in (0.2, 0.8):
        middle = hall.left + share * hall.width
        drawing.fill(middle - 0.9, hall.top, middle + 0.9, hall.top + _WALL, FREE)
    side = (hall.bottom + hall.top) / 2
    drawing.fill(hall.right, side - _DOOR / 2, lounge.left, side + _DOOR / 2, FREE)
    _kitchen(drawing, kitchen)
    _islands(drawing, hall)
    _lounge(drawing, random, lounge)
    return corridor


def _row(random: np.random.Generator, strip: _Room, shares: tuple[float, ...]) -> list[_Room]:
    """Divide a strip of a building into rooms of approximately the given shares of its width."""
    weights = np.array(shares) * random.uniform(0.9, 1.1, len(shares))
    inner = strip.width - _WALL * (len(shares) + 1)
    ends = np.round(np.cumsum(weights / weights.sum()) * inner, 1)
    rooms = []
    for index, end in enumerate(ends):
        begin = float(ends[index - 1]) if index > 0 else 0.0
        offset = strip.left + _WALL * (index + 1)
        rooms.append(_Room(begin + offset, strip.bottom, float(end) + offset, strip.top))
    rooms[-1] = _Room(rooms[-1].left, strip.bottom, strip.right - _WALL, strip.top)
    return rooms


def _position_on_wall(random: np.random.Generator, low: float, high: float) -> float:
    """Choose a position along a wall, to the decimetre."""
    return round(float(random.uniform(low, high)), 1)


def _desks(drawing: FloorDrawing, random: np.random.Generator, area: _Room) -> None:
    """Furnish an office: a desk at the window, a chair, another desk or a cabinet at a side."""
    x = (area.left + area.right) / 2
    drawing.block(x, area.top - 0.4, 1.6, 0.8)
    drawing.block(x, area.top - 1.15, 0.45, 0.45)
    left = bool(random.integers(2))
    wall = area.left if left else area.right
    inward = 1.0 if left else -1.0
    middle = (area.bottom + area.top) / 2
    if random.integers(2):
        drawing.block(wall + inward * 0.35, middle, 0.7, 1.4)
        drawing.block(wall + inward * 1.0, middle, 0.4, 0.4)
    else:
        drawing.block(wall + inward * 0.2, middle, 0.4, 1.8)


def _meeting_room(drawing: FloorDrawing, area: _Room) -> None:
    """Furnish a meeting room: a table with chairs on both sides and a screen's cabinet."""
    x, y = (area.left + area.right) / 2, (area.bottom + area.top) / 2 + 0.4
    drawing.block(x, y, 1.1, 2.6)
    for step in (-0.9, 0.0, 0.9):
        drawing.block(x - 0.85, y + step, 0.4, 0.4)
        drawing.block(x + 0.85, y + step, 0.4, 0.4)
    drawing.block(x, area.top - 0.2, 1.6, 0.4)


def _kitchen(drawing: FloorDrawing, area: _Room) -> None:
    """Furnish a kitchen: a counter around the corner, a table with stools."""
    drawing.fill(area.left, area.bottom, area.right, area.bottom + 0.6, OCCUPIED)
    drawing.fill(area.left, area.bottom, area.left + 0.6, area.bottom + 2.2, OCCUPIED)
    x, y = area.right - 1.4, (area.bottom + area.top) / 2 + 0.3
    drawing.block(x, y, 0.9, 0.9)
    for across, up in ((-0.75, 0.0), (0.75, 0.0), (0.0, -0.75)):
        drawing.block(x + across, y + up, 0.35, 0.35)


def _islands(drawing: FloorDrawing, area: _Room) -> None:
    """Furnish an open-plan office: islands of four desks, desks at the window, two columns."""
    for share in (0.25, 0.75):
        x = area.left + share * area.width
        drawing.block(x, area.bottom + 3.3, 2.8, 1.3)
        drawing.fill(x - 1.4, area.bottom, x + 1.4, area.bottom + 0.7, OCCUPIED)
        for across in (-0.7, 0.7):
            for up in (1.0, 2.35, 4.25):
                drawing.block(x + across, area.bottom + up, 0.45, 0.4)
    x = area.left + area.width / 2
    drawing.block(x, area.bottom + 1.4, 0.4, 0.4)
    drawing.block(x, area.top - 1.2, 0.4, 0.4)


def _lounge(drawing: FloorDrawing, random: np.random.Generator, area: _Room) -> None:
    """Furnish a lounge: a sofa along the window, a low table, shelves, a plant."""
    x = (area.left + area.right) / 2
    drawing.block(x, area.bottom + 0.4, 2.2, 0.8)
    drawing.block(x, area.bottom + 1.7, 1.1, 0.6)
    drawing.block(area.right - 0.2, (area.bottom + area.top) / 2, 0.4, 2.0)
    corner = area.left if random.integers(2) else area.right - 0.5
    drawing.fill(corner, area.bottom, corner + 0.5, area.bottom + 0.5, OCCUPIED)
