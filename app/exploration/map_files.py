"""ROS map_server files, a yaml and a pgm: read as untrusted input, written atomically.

The format is that of http://wiki.ros.org/map_server: trinary mode, binary pgm (P5), no rotation.
A file that violates a rule is rejected with one line that names the file and the fault.
"""

import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from app.exploration.grid import FREE, MAX_CELLS, OCCUPIED, UNKNOWN, FloorMap, Grid, GridFrame

_YAML_BYTES = 64 * 1024
_YAML_DEPTH = 8
_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_HEADER_BYTES = 4096
_MAX_PIXELS = MAX_CELLS
_AREA = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAMES_SHOWN = 20
_WHITE = 255

# A pgm header: magic, width, height, largest value, separated by blanks and comments.
_GAP = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P5" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,5})\s")

# Written by save_map: these thresholds turn the pixel values back into the same grid.
_PIXELS = {OCCUPIED: 0, UNKNOWN: 205, FREE: 254}
_OCCUPIED_THRESH = 0.65
_FREE_THRESH = 0.196


class MapError(ValueError):
    """An unusable map; the message is one line that names the file and the fault."""


@dataclass(frozen=True, slots=True)
class _Description:
    """The validated content of a map's yaml."""

    image: str
    resolution: float
    origin: tuple[float, float]
    negate: bool
    occupied_thresh: float
    free_thresh: float


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
    description = _validate(yaml_path, _read_yaml(yaml_path))
    image_path = _image_path(yaml_path, description.image)
    pixels, white = _read_pgm(yaml_path, image_path, max_pixels)
    grid = _occupancy(pixels, white, description)
    if not (grid == FREE).any():
        raise _error(yaml_path, f"image {image_path.name} has no free cell")
    rows, cols = grid.shape
    frame = GridFrame(rows, cols, description.resolution, *description.origin)
    return FloorMap(yaml_path.stem, grid, frame)


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


def _error(path: Path, fault: str) -> MapError:
    """Make the error of one file, on one line even if the fault quotes line breaks."""
    return MapError(" ".join(f"map file {path.name}: {fault}".split()))


def _read_yaml(path: Path) -> dict[Any, Any]:
    """Read a yaml mapping without the constructs that let a small file become a large value."""
    if not path.is_file():
        raise _error(path, f"no such file in {path.parent}")
    try:
        with path.open("rb") as file:
            content = file.read(_YAML_BYTES + 1)
    except OSError as error:
        raise _error(path, f"cannot be read ({error.strerror})") from error
    if len(content) > _YAML_BYTES:
        raise _error(path, f"larger than {_YAML_BYTES} bytes")
    try:
        _reject_hazards(path, content)
        values = yaml.safe_load(content)
    except MapError:
        raise
    # PyYAML also raises the errors of int() and date().
    except (yaml.YAMLError, ValueError) as error:
        raise _error(path, f"not yaml ({str(error)[:200]})") from error
    if not isinstance(values, dict):
        raise _error(path, f"expected keys and values, found {type(values).__name__}")
    return values


def _reject_hazards(path: Path, content: bytes) -> None:
    """Reject what makes a small yaml large or slow; PyYAML takes time quadratic in depth."""
    depth = 0
    for token in yaml.scan(content, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
            raise _error(path, "anchors and aliases are not allowed")
        depth += isinstance(token, _OPENING)
        depth -= isinstance(token, _CLOSING)
        if depth > _YAML_DEPTH:
            raise _error(path, f"not yaml of a map (nested deeper than {_YAML_DEPTH})")


def _validate(path: Path, values: dict[Any, Any]) -> _Description:
    """Validate every key that a map needs, and reject what this reader does not support."""
    for key in ("image", "resolution", "origin", "negate", "occupied_thresh", "free_thresh"):
        if key not in values:
            raise _error(path, f"key {key!r} is missing")
    image = values["image"]
    if not isinstance(image, str) or not image or "\0" in image:
        raise _error(path, f"key 'image': expected a file name, found {_short_repr(image)}")
    mode = values.get("mode", "trinary")
    if mode != "trinary":
        raise _error(path, f"key 'mode': only trinary is read, found {_short_repr(mode)}")
    origin = values["origin"]
    if not isinstance(origin, Sequence) or isinstance(origin, str) or len(origin) != len("xyt"):
        raise _error(path, f"key 'origin': expected [x, y, yaw], found {_short_repr(origin)}")
    x, y, yaw = (_number(path, "origin", value, -1e6, 1e6) for value in origin)
    if yaw != 0.0:
        raise _error(path, f"key 'origin': only yaw 0 is read, found {_short_repr(yaw)}")
    if values["negate"] not in (0, 1):
        raise _error(path, f"key 'negate': expected 0 or 1, found {_short_repr(values['negate'])}")
    occupied = _number(path, "occupied_thresh", values["occupied_thresh"], 0.0, 1.0)
    free = _number(path, "free_thresh", values["free_thresh"], 0.0, 1.0)
    if free > occupied:
        raise _error(path, "key 'free_thresh': above occupied_thresh")
    resolution = _number(path, "resolution", values["resolution"], 1e-3, 10.0)
    return _Description(image, resolution, (x, y), values["negate"] == 1, occupied, free)


def _short_repr(value: object) -> str:
    """Return a value's repr, cut to a length that fits an error line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004, the length itself


def _number(path: Path, key: str, value: object, least: float, most: float) -> float:
    """Return a finite number between two bounds; a bool is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _error(path, f"key {key!r}: expected a number, found {_short_repr(value)}")
    if not math.isfinite(value) or not least <= value <= most:
        raise _error(
            path, f"key {key!r}: expected {least:g} to {most:g}, found {_short_repr(value)}"
        )
    return float(value)


def _image_path(yaml_path: Path, image: str) -> Path:
    """Return the image's path; it must not leave the yaml's folder, not even by symbolic links."""
    folder = yaml_path.parent.resolve()
    try:
        path = (folder / image).resolve()
    except (OSError, RuntimeError) as error:  # a cycle of symbolic links
        raise _error(yaml_path, f"image {_short_repr(image)} cannot be resolved") from error
    if not path.is_relative_to(folder):
        raise _error(yaml_path, f"image {_short_repr(image)} lies outside the folder of the yaml")
    if not path.is_file():
        raise _error(yaml_path, f"image {_short_repr(image)} is missing")
    return path


def _read_pgm(yaml_path: Path, path: Path, max_pixels: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Read a binary pgm: (rows, cols) uint8 with the top row first, and its largest value."""
    try:
        with path.open("rb") as file:
            header = _HEADER.match(file.read(_HEADER_BYTES))
            if header is None:
                raise _error(yaml_path, f"image {path.name} is not a binary pgm (P5)")
            cols, rows, white = (int(group) for group in header.groups())
            if not 0 < white <= _WHITE:
                raise _error(yaml_path, f"image {path.name}: largest value {white} is not 1..255")
            if rows * cols > max_pixels:
                raise _error(
                    yaml_path,
                    f"image {path.name}: {cols} x {rows} pixels, more than {max_pixels} allowed",
                )
            present = os.fstat(file.fileno()).st_size - header.end()
            if present != rows * cols or present == 0:
                raise _error(
                    yaml_path,
                    f"image {path.name}: {present} bytes of pixels, its header says {cols} x {rows}",
                )
            file.seek(header.end())
            content = file.read(rows * cols)
    except OSError as error:
        raise _error(yaml_path, f"image {path.name} cannot be read ({error.strerror})") from error
    if len(content) != rows * cols:
        raise _error(yaml_path, f"image {path.name} changed while it was read")
    return np.frombuffer(content, np.uint8).reshape(rows, cols), white


def _occupancy(pixels: npt.NDArray[np.uint8], white: int, description: _Description) -> Grid:
    """Convert pixels, top row first, to occupancy, lowest row first."""
    brightness = np.minimum(np.arange(_WHITE + 1) / white, 1.0)
    occupied = brightness if description.negate else 1.0 - brightness
    meaning = np.full(_WHITE + 1, UNKNOWN, np.int8)
    meaning[occupied < description.free_thresh] = FREE
    meaning[occupied > description.occupied_thresh] = OCCUPIED
    return np.ascontiguousarray(meaning[pixels[::-1]])


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
