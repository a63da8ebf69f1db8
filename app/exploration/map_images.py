"""The image of a map_server map: read as untrusted input, in the forms that other tools write.

Netpbm (P1 to P6, 8 and 16 bit), PNG and BMP. The size is checked on the header, before pixels are
read or decompressed. What follows the pixels is ignored, as by other readers.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from app.exploration.map_description import map_error

_HEADER_BYTES = 4096
# Where width and height end in the headers.
_PNG_SIZE_END, _BMP_SIZE_END = 24, 26
_MOST = 65535
_BYTE = 255
# Of one pixel in a plain (text) file: the digits of three numbers and what separates them.
_TEXT_BYTES = 24
# Of one pixel in a PNG or BMP file, and of its other parts.
_PIXEL_BYTES, _OTHER_BYTES = 8, 1 << 20

# A netpbm header: magic, width, height, largest value, separated by blanks and comments.
_GAP = rb"(?:\s|#[^\n]*\n)+"
_SIZE = rb"(P[1-6])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})"
_BITMAP = re.compile(_SIZE + rb"(\s)")
_GREYMAP = re.compile(_SIZE + _GAP + rb"(\d{1,5})(\s)")
_COMMENT = re.compile(rb"#[^\n]*")

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class MapImage:
    """The pixels of an image.

    Attributes:
        channels: (rows, cols, 1 or 3) uint8 or uint16, the top row first.
        alpha: (rows, cols) of the same type, the opacity; None if the image has none.
        white: The value of full brightness and of full opacity.
    """

    channels: Pixels
    alpha: Pixels | None
    white: int


def read_image(yaml_path: Path, path: Path, max_pixels: int) -> MapImage:
    """Read an image of a map.

    Args:
        yaml_path: The map's yaml, which errors name.
        path: The image.
        max_pixels: The maximum size.

    Raises:
        MapError: It is of another kind, damaged or too large, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
            if start.startswith(b"\x89PNG\r\n\x1a\n") and len(start) >= _PNG_SIZE_END:
                return _decode(yaml_path, file, struct.unpack(">II", start[16:24]), max_pixels)
            if start.startswith(b"BM") and len(start) >= _BMP_SIZE_END:
                return _decode(yaml_path, file, struct.unpack("<ii", start[18:26]), max_pixels)
            header = (_BITMAP if start[:2] in {b"P1", b"P4"} else _GREYMAP).match(start)
            if header is None:
                raise map_error(
                    yaml_path,
                    f"image {path.name} is not a binary pgm (P5), another netpbm, a png or a bmp; convert it, for example with "
                    f"magick {path.name} {path.stem}.png, and name that in the key 'image'",
                )
            return _read_netpbm(yaml_path, file, header, max_pixels)
    except OSError as error:
        raise map_error(
            yaml_path, f"image {path.name} cannot be read ({error.strerror})"
        ) from error


def _check_size(yaml_path: Path, name: str, cols: int, rows: int, max_pixels: int) -> None:
    if rows * cols > max_pixels:
        raise map_error(
            yaml_path, f"image {name}: {cols} x {rows} pixels, more than {max_pixels} allowed"
        )


def _decode(yaml_path: Path, file: BinaryIO, size: tuple[int, int], max_pixels: int) -> MapImage:
    """Decode a PNG or BMP file."""
    name = Path(file.name).name
    cols, rows = size[0], abs(size[1])  # a BMP of negative height is stored from the top
    _check_size(yaml_path, name, cols, rows, max_pixels)
    file.seek(0)
    content = file.read(cols * rows * _PIXEL_BYTES + _OTHER_BYTES)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if (
        pixels is None
        or pixels.shape[:2] != (rows, cols)
        or pixels.dtype
        not in {
            np.dtype(np.uint8),
            np.dtype(np.uint16),
        }
    ):
        raise map_error(yaml_path, f"image {name} is damaged, or of a kind that cannot be decoded")
    shaped: npt.NDArray[Any] = pixels.reshape(rows, cols, -1)
    colours = shaped.shape[2] - 1 + shaped.shape[2] % 2  # 1 and 3 have no alpha, 2 and 4 do
    return MapImage(
        shaped[:, :, :colours],
        shaped[:, :, colours] if colours < shaped.shape[2] else None,
        _BYTE if shaped.dtype == np.uint8 else _MOST,
    )


def _read_netpbm(
    yaml_path: Path, file: BinaryIO, header: re.Match[bytes], max_pixels: int
) -> MapImage:
    name, kind = Path(file.name).name, header[1]
    cols, rows = int(header[2]), int(header[3])
    white = 1 if kind in {b"P1", b"P4"} else int(header[4])
    if not 0 < white <= _MOST:
        raise map_error(yaml_path, f"image {name}: largest value {white} is not 1..{_MOST}")
    _check_size(yaml_path, name, cols, rows, max_pixels)
    depth = 3 if kind in {b"P3", b"P6"} else 1
    numbers = rows * cols * depth
    file.seek(header.end())
    values: npt.NDArray[np.integer[Any]]
    if kind in {b"P1", b"P2", b"P3"}:
        values = _plain(file, numbers, bits=kind == b"P1")
        present, expected = values.size, numbers
    else:
        width = 2 if white > _BYTE else 1
        expected = rows * ((cols + 7) // 8) if kind == b"P4" else numbers * width
        content = file.read(expected + 1)
        # Written by a program for Windows: its last line ends with two characters as the others do.
        if b"\r\n" in header[0] and header[0].endswith(b"\r") and content.startswith(b"\n"):
            content = content[1:] if len(content) > expected else content
        content = content[:expected]
        present = len(content)
        values = np.frombuffer(content[: present // width * width], f">u{width}")
        if kind == b"P4" and present == expected and present:
            bits = np.unpackbits(values.astype(np.uint8)).reshape(rows, -1)
            values = bits[:, :cols].ravel()
    if present < expected or not present:
        unit = "numbers" if kind in {b"P1", b"P2", b"P3"} else "bytes of pixels"
        raise map_error(
            yaml_path, f"image {name}: {present} {unit}, its header says {cols} x {rows}"
        )
    if kind in {b"P1", b"P4"}:
        values = 1 - values  # in a bitmap 1 is black
    shaped = np.minimum(values, white).reshape(rows, cols, depth)
    kept: Pixels = shaped.astype(np.uint16) if white > _BYTE else shaped.astype(np.uint8)
    return MapImage(kept, None, white)


def _plain(file: BinaryIO, numbers: int, *, bits: bool) -> npt.NDArray[np.uint16]:
    """Read the numbers of a plain file; those up to the first malformed one, if there is one."""
    content = _COMMENT.sub(b"", file.read(numbers * _TEXT_BYTES + _HEADER_BYTES))
    words: list[bytes] = (
        [bytes([digit]) for digit in content if digit in b"01"] if bits else content.split()
    )
    words = words[:numbers]
    good = next(
        (index for index, word in enumerate(words) if not word.isdigit() or len(word) > 5),  # noqa: PLR2004
        len(words),
    )
    return np.minimum(np.array(words[:good], np.int64), _MOST).astype(np.uint16)
