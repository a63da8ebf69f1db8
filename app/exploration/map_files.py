"""ROS map_server files, a yaml and a pgm: read as untrusted input, written atomically.

The format is that of http://wiki.ros.org/map_server and of Nav2. What is written is in the mode
trinary, a binary pgm (P5) without rotation. A file that violates a rule is rejected with one line that names the file and the fault.
"""

import math
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import yaml

from app.exploration.grid import FREE, MAX_CELLS, OCCUPIED, UNKNOWN, FloorMap, Grid, GridFrame
from app.exploration.map_description import (
    MapDescription,
    MapError,
    map_error,
    read_description,
    short_repr,
)
from app.exploration.map_images import MapImage, read_image

__all__ = ["MapError", "find_map", "known_maps", "load_map", "save_map", "write_atomically"]

_MAX_PIXELS = MAX_CELLS
_AREA = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAMES_SHOWN = 20
_WHITE = 255

# Of the angle of an origin that counts as a multiple of a right angle, radians.
_RIGHT_ANGLE = 1e-6
# Points of a cell at which a rotated map is read, the centre first; fractions of its side.
_SAMPLES = ((0.5, 0.5), *((dy / 6, dx / 6) for dy in (1, 3, 5) for dx in (1, 3, 5)))

# Written by save_map: these thresholds turn the pixel values back into the same grid.
_PIXELS = {OCCUPIED: 0, UNKNOWN: 205, FREE: 254}
_OCCUPIED_THRESH = 0.65
_FREE_THRESH = 0.196


def load_map(yaml_path: Path, *, max_pixels: int = _MAX_PIXELS) -> FloorMap:
    """Read a map_server yaml and its image, which must lie within the yaml's own folder.

    Args:
        yaml_path: the yaml file; its stem becomes the map's name.
        max_pixels: maximum size of the image, checked on its header before it is read.

    Returns:
        The floor, row 0 lowest, in the frame that resolution and origin give.

    Raises:
        MapError: a file is missing, malformed, too large, outside the folder, or shows no free cell.
    """
    description = read_description(yaml_path)
    image_path = _image_path(yaml_path, description.image)
    image = read_image(yaml_path, image_path, max_pixels)
    grid = _occupancy(image, description)
    if not (grid == FREE).any():
        raise map_error(
            yaml_path,
            f"image {image_path.name} has no free cell; see the keys 'negate', 'mode', "
            "'free_thresh'",
        )
    turned = _turned(grid, description.resolution, description.origin, max_pixels)
    if turned is None:
        raise map_error(
            yaml_path, f"key 'origin': rotated, the map has more than {max_pixels} cells"
        )
    return FloorMap(yaml_path.stem, *turned)


def save_map(yaml_path: Path, grid: Grid, frame: GridFrame) -> None:
    """Write a grid as trinary yaml and pgm; the image is in the same folder with the suffix `.pgm`.

    The same grid gives the same bytes, and `load_map` returns the same grid. Each file is
    replaced atomically, the image first.

    Args:
        yaml_path: the yaml to write.
        grid: (rows, cols) int8 occupancy.
        frame: where the grid lies.

    Raises:
        ValueError: the grid's shape is not the frame's.
        OSError: the folder is missing, full or not writable.
    """
    if grid.shape != (frame.rows, frame.cols):
        raise ValueError(f"grid {grid.shape} does not fit frame {(frame.rows, frame.cols)}")
    pixels = np.full(grid.shape, _PIXELS[UNKNOWN], np.uint8)
    pixels[grid == FREE] = _PIXELS[FREE]
    pixels[grid == OCCUPIED] = _PIXELS[OCCUPIED]
    image_path = yaml_path.with_suffix(".pgm")
    header = f"P5\n{frame.cols} {frame.rows}\n{_WHITE}\n".encode()
    description = {
        "image": image_path.name,
        "mode": "trinary",
        "resolution": frame.resolution,
        "origin": [frame.origin_x, frame.origin_y, 0.0],
        "negate": 0,
        "occupied_thresh": _OCCUPIED_THRESH,
        "free_thresh": _FREE_THRESH,
    }
    write_atomically(image_path, header + pixels[::-1].tobytes())
    text = yaml.safe_dump(description, sort_keys=False, default_flow_style=None)
    write_atomically(yaml_path, text.encode())


def known_maps(map_dir: Path) -> list[str]:
    """Return the names of the maps in a folder, sorted; the files are not validated."""
    return sorted(file.stem for file in map_dir.glob("*.yaml") if _AREA.fullmatch(file.stem))


def find_map(map_dir: Path, area: str) -> Path:
    """Return the yaml file of a named area, which must lie within the folder.

    Raises:
        MapError: the name is malformed, there is no such file, or it is outside the folder.
    """
    if not _AREA.fullmatch(area):
        raise MapError(
            f"map {area[:80]!r}: a name is 1 to 64 letters, digits, '_' or '-', "
            "the first a letter or a digit"
        )
    path = map_dir / f"{area}.yaml"
    if not path.is_file():
        names = known_maps(map_dir)
        more = ", ..." if len(names) > _NAMES_SHOWN else ""
        found = ", ".join(names[:_NAMES_SHOWN]) + more if names else "none"
        raise MapError(f"map {area!r}: no file {path.name} in {map_dir.name}/ (found: {found})")
    if not path.resolve().is_relative_to(map_dir.resolve()):
        raise MapError(f"map {area!r}: {path.name} is outside {map_dir.name}/")
    return path


def _image_path(yaml_path: Path, image: str) -> Path:
    """Return the image's path; it must not leave the yaml's folder, not even by symbolic links."""
    folder = yaml_path.parent.resolve()
    try:
        path = (folder / image).resolve()
    except (OSError, RuntimeError) as error:  # a cycle of symbolic links
        raise map_error(yaml_path, f"image {short_repr(image)} cannot be resolved") from error
    if not path.is_relative_to(folder):
        raise map_error(yaml_path, f"image {short_repr(image)} lies outside the folder of the yaml")
    if not path.is_file():
        raise map_error(yaml_path, f"image {short_repr(image)} is missing")
    return path


def _occupancy(image: MapImage, description: MapDescription) -> Grid:
    """Convert pixels, top row first, to occupancy, lowest row first, as Nav2's map_server does.

    In the mode trinary, opacity counts as a channel. In the mode scale, what is not opaque is
    unknown. In the mode raw, a brightness of 0 to 100 of 255 is the occupancy in percent, and
    more is unknown. What is between the thresholds is unknown in all modes.
    """
    channels, alpha, white = image.channels, image.alpha, image.white
    levels = channels.sum(axis=2, dtype=np.int32)
    count = channels.shape[2]
    if description.mode == "trinary" and alpha is not None:
        # One grey channel stands for three equal ones.
        levels = levels * (3 // count) + alpha
        count = 4
    brightness = np.arange(white * count + 1) / (white * count)
    if description.mode == "raw":
        occupied = np.rint(brightness * _WHITE) / OCCUPIED
    else:
        occupied = brightness if description.negate else 1.0 - brightness
    meaning = np.full(occupied.shape, UNKNOWN, np.int8)
    meaning[occupied < description.free_thresh] = FREE
    meaning[(occupied > description.occupied_thresh) & (occupied <= 1.0)] = OCCUPIED
    grid = meaning[levels]
    if description.mode == "scale" and alpha is not None:
        grid[alpha < white] = UNKNOWN
    return np.ascontiguousarray(grid[::-1])


def _turned(
    grid: Grid, resolution: float, origin: tuple[float, float, float], max_cells: int
) -> tuple[Grid, GridFrame] | None:
    """Return a grid whose origin is rotated in a grid along the axes; None if it is too large.

    A multiple of a right angle is exact. Otherwise a cell is occupied if any part of it is, so
    that walls stay closed, else it has the value at its centre.

    Args:
        grid: (rows, cols) int8 occupancy.
        resolution: The side of a cell, metres.
        origin: The pose (x, y, yaw) of the corner of cell (0, 0), metres and radians, map frame.
        max_cells: The maximum size.
    """
    x, y, yaw = origin
    rows, cols = grid.shape
    quarters = round(yaw / (math.pi / 2))
    is_right = abs(yaw - quarters * math.pi / 2) < _RIGHT_ANGLE
    cos, sin = (math.cos(yaw), math.sin(yaw))
    if is_right:
        cos, sin = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[quarters % 4]
    corners = np.array([[0, 0], [cols, 0], [0, rows], [cols, rows]]) * resolution
    turned = corners @ np.array([[cos, sin], [-sin, cos]])
    low, high = turned.min(axis=0), turned.max(axis=0)
    if quarters % 4 == 0 and is_right:
        return grid, GridFrame(rows, cols, resolution, x, y)
    if is_right:
        grid = np.ascontiguousarray(np.rot90(grid, -quarters % 4))  # row 0 is the lowest
        return grid, GridFrame(
            grid.shape[0], grid.shape[1], resolution, x + float(low[0]), y + float(low[1])
        )
    new_cols, new_rows = (math.ceil(length / resolution - 1e-9) for length in high - low)
    if new_cols * new_rows > max_cells:
        return None
    frame = GridFrame(new_rows, new_cols, resolution, x + float(low[0]), y + float(low[1]))
    found = np.full((new_rows, new_cols), UNKNOWN, np.int8)
    for dy, dx in _SAMPLES:
        east = low[0] / resolution + np.arange(new_cols) + dx
        north = low[1] / resolution + np.arange(new_rows)[:, None] + dy
        col = np.floor(cos * east + sin * north).astype(np.int32)
        row = np.floor(cos * north - sin * east).astype(np.int32)
        inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
        values = np.where(
            inside, grid[row.clip(0, rows - 1), col.clip(0, cols - 1)], np.int8(UNKNOWN)
        )
        found = values if (dy, dx) == _SAMPLES[0] else np.where(values == OCCUPIED, values, found)
    return found, frame


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content atomically: readers see the old content or all of the new.

    Write a temporary file, fsync it, rename it, and fsync the folder.

    Raises:
        OSError: the folder is missing, full or not writable; the old file is then unchanged.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private; others must be able to read a map
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
