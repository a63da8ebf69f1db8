"""The yaml of a map_server map: read as untrusted input, in the forms that other tools write.

Numbers are those of YAML 1.2, which map_server reads (`5e-2`, `010` is ten), quoted or not. The
format is that of http://wiki.ros.org/map_server and of Nav2.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

_YAML_BYTES = 64 * 1024
_YAML_DEPTH = 8
_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_MODES = ("trinary", "scale", "raw")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_BOOLEANS = {
    **dict.fromkeys(("0", "false", "no", "off"), False),
    **dict.fromkeys(("1", "true", "yes", "on"), True),
}
# A tab that is neither quoted nor indentation separates, which PyYAML does not accept.
_QUOTED_OR_TABS = re.compile(rb"\"[^\"\n]*\"|'[^'\n]*'|(?<![\n\t ])[ \t]*\t[ \t]*")
_IMAGE_STARTS: tuple[bytes, ...] = (
    b"P1",
    b"P2",
    b"P3",
    b"P4",
    b"P5",
    b"P6",
    b"\x89PNG",
    b"BM",
    b"\xff\xd8",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"RIFF",
)
_EXAMPLE = (
    "resolution: 0.05, origin: [0, 0, 0], negate: 0, occupied_thresh: 0.65, free_thresh: 0.196"
)


class MapError(ValueError):
    """An unusable map; the message is one line that names the file and the fault."""


@dataclass(frozen=True, slots=True)
class MapDescription:
    """The validated content of a map's yaml.

    Attributes:
        image: The name of the image, relative to the yaml's folder.
        mode: How pixels become occupancy.
        resolution: The side of a pixel, metres.
        origin: The pose (x, y, yaw) of the image's lower left corner, metres and radians, map frame.
        negate: Whether light pixels are occupied.
        occupied_thresh: Occupancy from 0 to 1 above which a cell is occupied.
        free_thresh: Occupancy below which it is free.
    """

    image: str
    mode: Literal["trinary", "scale", "raw"]
    resolution: float
    origin: tuple[float, float, float]
    negate: bool
    occupied_thresh: float
    free_thresh: float


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, and reads integers as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise ValueError(
                    f"key {key.value!r} is given twice, in lines {lines[name]} and {line}"
                )
            lines[name] = line
        return super().construct_mapping(node, deep)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int | str:
    text = str(loader.construct_scalar(node))
    return int(text) if re.fullmatch(r"[-+]?\d{1,20}", text) else text


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float | str:
    text = str(loader.construct_scalar(node))
    return text if {":", "_"} & set(text) else float(loader.construct_yaml_float(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def map_error(path: Path, fault: str) -> MapError:
    """Make the error of one file, on one line even if the fault quotes line breaks."""
    return MapError(" ".join(f"map file {path.name}: {fault}".split()))


def short_repr(value: object) -> str:
    """Return a value's repr, cut to a length that fits an error line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004, the length itself


def read_description(path: Path) -> MapDescription:
    """Read and validate the yaml of a map.

    Raises:
        MapError: It is missing, malformed or too large, or a value is.
    """
    return _validate(path, _read_yaml(path))


def _read_yaml(path: Path) -> dict[Any, Any]:
    """Read a yaml mapping without the constructs that let a small file become a large value."""
    if path.is_dir():
        raise map_error(path, "is a folder: give the yaml of a map in it")
    if not path.is_file():
        raise map_error(path, f"no such file in {path.parent}")
    try:
        with path.open("rb") as file:
            content = file.read(_YAML_BYTES + 1)
    except OSError as error:
        raise map_error(path, f"cannot be read ({error.strerror})") from error
    if content.startswith(_IMAGE_STARTS):
        raise map_error(
            path,
            f"is an image: give a yaml that names it, such as {path.stem}.yaml, with the lines "
            f"image: {path.name}, {_EXAMPLE}",
        )
    if len(content) > _YAML_BYTES:
        raise map_error(path, f"larger than {_YAML_BYTES} bytes")
    content = _QUOTED_OR_TABS.sub(
        lambda found: found[0] if found[0][:1] in b"\"'" else b" ", content
    )
    try:
        _reject_hazards(path, content)
        values = yaml.load(content, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except MapError:
        raise
    # PyYAML also raises the errors of int() and date().
    except (yaml.YAMLError, ValueError) as error:
        text = str(error)[:200]
        raise map_error(path, text if "given twice" in text else f"not yaml ({text})") from error
    if not isinstance(values, dict):
        raise map_error(path, f"expected keys and values, found {type(values).__name__}")
    return values


def _reject_hazards(path: Path, content: bytes) -> None:
    """Reject what makes a small yaml large or slow; PyYAML takes time quadratic in depth."""
    depth = 0
    for token in yaml.scan(content, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
            raise map_error(path, "anchors and aliases are not allowed")
        depth += isinstance(token, _OPENING)
        depth -= isinstance(token, _CLOSING)
        if depth > _YAML_DEPTH:
            raise map_error(path, f"not yaml of a map (nested deeper than {_YAML_DEPTH})")


def _validate(path: Path, values: dict[Any, Any]) -> MapDescription:
    """Validate every key that a map needs."""
    for key in ("image", "resolution", "origin", "negate", "occupied_thresh", "free_thresh"):
        if key not in values:
            raise map_error(path, f"key {key!r} is missing")
    image = values["image"]
    if not isinstance(image, str) or not image or "\0" in image:
        raise map_error(path, f"key 'image': expected a file name, found {short_repr(image)}")
    mode = values.get("mode", "trinary")
    if mode not in _MODES:
        raise map_error(
            path, f"key 'mode': expected trinary, scale or raw, found {short_repr(mode)}"
        )
    origin = values["origin"]
    if not isinstance(origin, Sequence) or isinstance(origin, str) or len(origin) != len("xyt"):
        raise map_error(path, f"key 'origin': expected [x, y, yaw], found {short_repr(origin)}")
    x, y, yaw = (_number(path, "origin", value, -1e6, 1e6) for value in origin)
    negate = _BOOLEANS.get(str(values["negate"]).lower())
    if negate is None:
        raise map_error(
            path, f"key 'negate': expected 0 or 1, found {short_repr(values['negate'])}"
        )
    occupied = _number(path, "occupied_thresh", values["occupied_thresh"], 0.0, 1.0)
    free = _number(path, "free_thresh", values["free_thresh"], 0.0, 1.0)
    if free > occupied:
        raise map_error(path, "key 'free_thresh': above occupied_thresh")
    resolution = _number(path, "resolution", values["resolution"], 1e-3, 10.0)
    return MapDescription(image, mode, resolution, (x, y, yaw), negate, occupied, free)


def _number(path: Path, key: str, value: object, least: float, most: float) -> float:
    """Return a finite number between two bounds; a bool is not a number."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise map_error(path, f"key {key!r}: expected a number, found {short_repr(value)}")
    if not math.isfinite(value) or not least <= value <= most:
        raise map_error(
            path, f"key {key!r}: expected {least:g} to {most:g}, found {short_repr(value)}"
        )
    return float(value)
