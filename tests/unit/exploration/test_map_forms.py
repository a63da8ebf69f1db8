"""Maps are read in the forms that other tools write: numbers, texts, images, modes, rotations."""

import math
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, GridFrame
from app.exploration.map_files import load_map, save_map

YAML = """image: floor.pgm
resolution: 0.05
origin: [-1.0, 2.0, 0.0]
negate: 0
occupied_thresh: 0.65
free_thresh: 0.196
"""
GREY = [0, 205, 254, 254, 254, 0]
PGM = b"P5\n3 2\n255\n" + bytes(GREY)
WORDS = " ".join(str(value) for value in GREY).encode()
BIG = struct.pack(">6H", *(value * 257 for value in GREY))
EXPECTED = [[FREE, FREE, OCCUPIED], [OCCUPIED, UNKNOWN, FREE]]
WITHOUT_GREY = [[FREE, FREE, OCCUPIED], [OCCUPIED, FREE, FREE]]


def _encoded(kind: str, *channels: list[int], scale: int = 1) -> bytes:
    pixels = np.array(channels).T.reshape(2, 3, -1) * scale
    found, data = cv2.imencode(kind, pixels.astype(np.uint16 if scale > 1 else np.uint8))
    assert found
    return data.tobytes()


def _yaml(old: str, new: str) -> str:
    assert old in YAML
    return YAML.replace(old, new)


OPAQUE, CLEAR = [255] * 6, [255, 255, 255, 0, 255, 255]

# Each file means the same map: the numbers, then the yaml, then the image.
FORMS: dict[str, tuple[str, bytes]] = {
    "resolution 5e-2": (_yaml("0.05", "5e-2"), PGM),
    "resolution 5E-2": (_yaml("0.05", "5E-2"), PGM),
    "resolution 5.0e-2": (_yaml("0.05", "5.0e-2"), PGM),
    "resolution 0.5e-1": (_yaml("0.05", "0.5e-1"), PGM),
    "resolution .05": (_yaml("0.05", ".05"), PGM),
    "resolution +0.05": (_yaml("0.05", "+0.05"), PGM),
    "resolution 0.050000": (_yaml("0.05", "0.050000"), PGM),
    "resolution in quotes": (_yaml("0.05", "'0.05'"), PGM),
    "resolution in double quotes": (_yaml("0.05", '"0.05"'), PGM),
    "resolution in quotes with exponent": (_yaml("0.05", '"5e-2"'), PGM),
    "resolution in quotes with blanks": (_yaml("0.05", "' 0.05 '"), PGM),
    "resolution with a tab behind": (_yaml("0.05", "0.05\t"), PGM),
    "resolution with a tab before": (_yaml(" 0.05", "\t0.05"), PGM),
    "resolution with a comment": (_yaml("0.05", "0.05 # metres, don't change"), PGM),
    "resolution with a tab and a comment": (_yaml("0.05", "0.05\t# metres"), PGM),
    "resolution tagged": (_yaml("0.05", "!!float 0.05"), PGM),
    "origin of whole numbers": (_yaml("-1.0, 2.0, 0.0", "-1, 2, 0"), PGM),
    "origin with exponents": (_yaml("-1.0, 2.0, 0.0", "-1e0, 2E0, 0e0"), PGM),
    "origin with points only": (_yaml("-1.0, 2.0, 0.0", "-1., 2., 0."), PGM),
    "origin with a zero in front": (_yaml("2.0", "02"), PGM),
    "origin in quotes": (_yaml("-1.0, 2.0, 0.0", "'-1.0', \"2.0\", '0'"), PGM),
    "origin with tabs": (_yaml("[-1.0, 2.0, 0.0]", "[\t-1.0,\t2.0,\t0.0\t]\t"), PGM),
    "origin without blanks": (_yaml("[-1.0, 2.0, 0.0]", "[-1.0,2.0,0.0]"), PGM),
    "origin as a block": (_yaml("[-1.0, 2.0, 0.0]", "\n- -1.0\n- 2.0\n- 0.0"), PGM),
    "origin as an indented block": (_yaml("[-1.0, 2.0, 0.0]", "\n  - -1\n  - 2\n  - 0"), PGM),
    "origin over lines": (_yaml("2.0, 0.0]", "\n  2.0,\n  0.0]"), PGM),
    "origin with minus zero": (_yaml("0.0]", "-0.0]"), PGM),
    "origin turned once": (_yaml("0.0]", "6.283185307179586]"), PGM),
    "negate false": (_yaml("negate: 0", "negate: false"), PGM),
    "negate False": (_yaml("negate: 0", "negate: False"), PGM),
    "negate no": (_yaml("negate: 0", "negate: no"), PGM),
    "negate in quotes": (_yaml("negate: 0", "negate: '0'"), PGM),
    "negate with a tab": (_yaml("negate: 0", "negate: 0\t"), PGM),
    "thresholds in quotes": (_yaml("0.65", "'0.65'").replace("0.196", '"0.196"'), PGM),
    "thresholds with exponents": (_yaml("0.65", "65e-2").replace("0.196", "1.96e-1"), PGM),
    "mode trinary": (YAML + "mode: trinary\n", PGM),
    "mode in quotes": (YAML + 'mode: "trinary"\n', PGM),
    "mode scale": (YAML + "mode: scale\n", PGM),
    "other keys": (YAML + "voxel_size: 3\nauthor: {name: me}\n", PGM),
    "yaml of Windows": (YAML.replace("\n", "\r\n"), PGM),
    "yaml of Windows with tabs": (YAML.replace("\n", "\t\r\n"), PGM),
    "yaml without a last newline": (YAML.strip(), PGM),
    "yaml with a document mark": ("---\n" + YAML + "...\n", PGM),
    "yaml with a version": ("%YAML 1.2\n---\n" + YAML, PGM),
    "yaml with a byte order mark": ("\ufeff" + YAML, PGM),
    "yaml as json": (
        (
            '{"image": "floor.pgm", "resolution": 5e-2, "origin": [-1, 2, 0], "negate": 0, '
            '"occupied_thresh": 0.65, "free_thresh": 0.196}'
        ),
        PGM,
    ),
    "image in quotes": (_yaml("floor.pgm", '"floor.pgm"'), PGM),
    "image in quotes with a tab behind": (_yaml("floor.pgm", "'floor.pgm'\t"), PGM),
    "image here": (_yaml("floor.pgm", "./floor.pgm"), PGM),
    "one byte behind the pixels": (YAML, PGM + b"\0"),
    "a newline behind the pixels": (YAML, PGM + b"\n"),
    "a line of Windows behind the pixels": (YAML, PGM + b"\r\n"),
    "another image behind the pixels": (YAML, PGM + PGM),
    "header of Windows": (YAML, b"P5\r\n3 2\r\n255\r\n" + bytes(GREY)),
    "header of Windows with a comment": (YAML, b"P5\r\n# by me\r\n3 2\r\n255\r\n" + bytes(GREY)),
    "header of Windows, newline behind": (YAML, b"P5\r\n3 2\r\n255\r\n" + bytes(GREY) + b"\r\n"),
    "header on one line": (YAML, b"P5 3 2 255 " + bytes(GREY)),
    "header with tabs": (YAML, b"P5\t3\t2\t255\n" + bytes(GREY)),
    "header with comments": (YAML, b"P5\n# one\n#two\n3 2\n# three\n255\n" + bytes(GREY)),
    "size over lines": (YAML, b"P5\n3\n2\n255\n" + bytes(GREY)),
    "first pixel is a newline": (
        YAML,
        b"P5\n3 2\n255\n" + bytes([10, *GREY[1:]]),
    ),
    "16 bit": (YAML, b"P5\n3 2\n65535\n" + BIG),
    "16 bit with a newline behind": (YAML, b"P5\n3 2\n65535\n" + BIG + b"\n"),
    "16 bit of Windows": (YAML, b"P5\r\n3 2\r\n65535\r\n" + BIG),
    "10 bit": (YAML, b"P5\n3 2\n1000\n" + struct.pack(">6H", 0, 803, 996, 996, 996, 0)),
    "largest value 100": (YAML, b"P5\n3 2\n100\n" + bytes([0, 80, 100, 100, 100, 0])),
    "values above the largest": (YAML, b"P5\n3 2\n100\n" + bytes([0, 80, 200, 255, 100, 0])),
    "P2": (YAML, b"P2\n3 2\n255\n" + WORDS + b"\n"),
    "P2 of Windows": (YAML, b"P2\r\n3 2\r\n255\r\n" + WORDS.replace(b" ", b"\r\n")),
    "P2 with comments": (YAML, b"P2\n3 2\n255\n0 205 254 # row\n254 254 0\n"),
    "P2 of 16 bit": (YAML, b"P2\n3 2\n65535\n0 52685 65278 65278 65278 0\n"),
    "P3": (YAML, b"P3\n3 2\n255\n" + b" ".join(b"%d %d %d" % (v, v, v) for v in GREY)),
    "P6": (YAML, b"P6\n3 2\n255\n" + bytes(v for v in GREY for _ in range(3))),
    "P6 of 16 bit": (
        YAML,
        b"P6\n3 2\n65535\n" + b"".join(struct.pack(">3H", *[v * 257] * 3) for v in GREY),
    ),
    "png": (YAML, _encoded(".png", GREY)),
    "png with bytes behind": (YAML, _encoded(".png", GREY) + b"\n"),
    "png of 16 bit": (YAML, _encoded(".png", GREY, scale=257)),
    "png of colours": (YAML, _encoded(".png", GREY, GREY, GREY)),
    "png of colours, 16 bit": (YAML, _encoded(".png", GREY, GREY, GREY, scale=257)),
    "png in the mode scale": (YAML + "mode: scale\n", _encoded(".png", GREY)),
    "png, opaque, in the mode scale": (
        YAML + "mode: scale\n",
        _encoded(".png", GREY, GREY, GREY, OPAQUE),
    ),
    "bmp": (YAML, _encoded(".bmp", GREY, GREY, GREY)),
    "bmp of grey": (YAML, _encoded(".bmp", GREY)),
    "negated": (_yaml("negate: 0", "negate: 1"), b"P5\n3 2\n255\n" + bytes(255 - v for v in GREY)),
    "negated, true": (
        _yaml("negate: 0", "negate: true"),
        b"P5\n3 2\n255\n" + bytes(255 - v for v in GREY),
    ),
    "mode raw": (YAML + "mode: raw\n", b"P5\n3 2\n255\n" + bytes([100, 255, 0, 0, 0, 100])),
    "mode raw between the thresholds": (
        YAML + "mode: raw\n",
        b"P5\n3 2\n255\n" + bytes([66, 50, 19, 10, 0, 99]),
    ),
    "mode raw ignores negate": (
        _yaml("negate: 0", "negate: 1") + "mode: raw\n",
        b"P5\n3 2\n255\n" + bytes([100, 205, 0, 0, 0, 100]),
    ),
    "mode raw of 16 bit": (
        YAML + "mode: raw\n",
        b"P5\n3 2\n65535\n" + struct.pack(">6H", 25700, 65535, 0, 0, 0, 25700),
    ),
}


def test_the_table_has_at_least_sixty_forms() -> None:
    """Each file of the table differs from all others."""
    assert len(set(FORMS.values())) == len(FORMS) >= 60


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_map(tmp_path: Path, form: str) -> None:
    """The grid and its frame are those of the plain form, and what is written is read again."""
    text, image = FORMS[form]
    (tmp_path / "floor.yaml").write_bytes(text.encode())
    (tmp_path / "floor.pgm").write_bytes(image)

    floor = load_map(tmp_path / "floor.yaml")

    assert floor.grid.tolist() == EXPECTED
    assert floor.frame == GridFrame(2, 3, 0.05, -1.0, 2.0)
    save_map(tmp_path / "again.yaml", floor.grid, floor.frame)
    assert load_map(tmp_path / "again.yaml").grid.tolist() == EXPECTED


@pytest.mark.parametrize(
    ("image", "mode", "expected"),
    [
        (b"P1\n3 2\n1 0 0\n0 0 1\n", "trinary", WITHOUT_GREY),
        (b"P1\n3 2\n100001", "trinary", WITHOUT_GREY),
        (b"P4\n3 2\n" + bytes([0b10000000, 0b00100000]), "trinary", WITHOUT_GREY),
        # Opacity is a channel of the mode trinary, and unknown in the mode scale.
        (
            _encoded(".png", GREY, GREY, GREY, CLEAR),
            "trinary",
            [[UNKNOWN, FREE, OCCUPIED], [OCCUPIED, FREE, FREE]],
        ),
        (
            _encoded(".png", GREY, GREY, GREY, CLEAR),
            "scale",
            [[UNKNOWN, FREE, OCCUPIED], [OCCUPIED, UNKNOWN, FREE]],
        ),
        (_encoded(".png", *[[100, 255, 0, 0, 0, 100]] * 3, CLEAR), "raw", EXPECTED),
    ],
)
def test_bitmaps_and_transparency(
    tmp_path: Path, image: bytes, mode: str, expected: list[list[int]]
) -> None:
    """They mean what they mean to Nav2."""
    (tmp_path / "floor.yaml").write_text(f"{YAML}mode: {mode}\n")
    (tmp_path / "floor.pgm").write_bytes(image)

    assert load_map(tmp_path / "floor.yaml").grid.tolist() == expected


@pytest.mark.parametrize(
    ("yaw", "expected", "corner"),
    [
        (math.pi / 2, [[OCCUPIED, FREE], [UNKNOWN, FREE], [FREE, OCCUPIED]], (-1.1, 2.0)),
        (1.570796, [[OCCUPIED, FREE], [UNKNOWN, FREE], [FREE, OCCUPIED]], (-1.1, 2.0)),
        (math.pi, [[FREE, UNKNOWN, OCCUPIED], [OCCUPIED, FREE, FREE]], (-1.15, 1.9)),
        (-math.pi / 2, [[OCCUPIED, FREE], [FREE, UNKNOWN], [FREE, OCCUPIED]], (-1.0, 1.85)),
        (3 * math.pi / 2, [[OCCUPIED, FREE], [FREE, UNKNOWN], [FREE, OCCUPIED]], (-1.0, 1.85)),
    ],
)
def test_an_origin_rotated_by_right_angles_is_exact(
    tmp_path: Path, yaw: float, expected: list[list[int]], corner: tuple[float, float]
) -> None:
    """The image turns about its lower left corner, counter-clockwise."""
    (tmp_path / "floor.yaml").write_text(_yaml("0.0]", f"{yaw}]"))
    (tmp_path / "floor.pgm").write_bytes(PGM)

    floor = load_map(tmp_path / "floor.yaml")

    assert floor.grid.tolist() == expected
    assert (floor.frame.origin_x, floor.frame.origin_y) == pytest.approx(corner)


@pytest.mark.parametrize("yaw", [0.1, 0.5, 1.0, 2.5, -0.7])
def test_the_walls_of_a_rotated_room_stay_closed(tmp_path: Path, yaw: float) -> None:
    """Each point is what it was before, and no free cell touches the outside, not even at a corner."""
    pixels = np.full((40, 60), 254, np.uint8)
    pixels[[0, -1]], pixels[:, [0, -1]] = 0, 0
    (tmp_path / "floor.yaml").write_text(_yaml("0.0]", f"{yaw}]"))
    (tmp_path / "floor.pgm").write_bytes(b"P5\n60 40\n255\n" + pixels.tobytes())

    floor = load_map(tmp_path / "floor.yaml")

    for row, col in ((5, 5), (20, 30), (35, 50)):
        along, across = (col + 0.5) * 0.05, (row + 0.5) * 0.05
        x = -1.0 + along * math.cos(yaw) - across * math.sin(yaw)
        y = 2.0 + along * math.sin(yaw) + across * math.cos(yaw)
        assert floor.grid[floor.frame.cell(x, y)] == FREE
    free = np.pad(floor.grid == FREE, 1)
    unknown = np.pad(floor.grid == UNKNOWN, 1, constant_values=True)
    assert abs(free.sum() - 38 * 58) < 0.1 * 38 * 58
    grown = cv2.dilate(free.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert not (grown & unknown).any()
