"""Map files are read without trusting them, and written atomically."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridFrame
from app.exploration.map_files import MapError, find_map, load_map, save_map

YAML = """image: floor.pgm
resolution: 0.05
origin: [-1.0, 2.0, 0.0]
negate: 0
occupied_thresh: 0.65
free_thresh: 0.196
"""
PGM = b"P5\n# drawn by hand\n3 2\n255\n" + bytes([0, 205, 254, 254, 254, 0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with a good map in it, and a file outside."""
    inside = tmp_path / "maps"
    inside.mkdir()
    (inside / "floor.yaml").write_text(YAML)
    (inside / "floor.pgm").write_bytes(PGM)
    (tmp_path / "outside.pgm").write_bytes(PGM)
    return inside


def test_a_map_is_read_with_its_lowest_row_first(folder: Path) -> None:
    """The image's last row becomes row 0, and the yaml's origin its lower left corner."""
    floor = load_map(folder / "floor.yaml")

    assert floor.name == "floor"
    assert floor.frame == GridFrame(2, 3, 0.05, -1.0, 2.0)
    assert floor.grid.tolist() == [[FREE, FREE, OCCUPIED], [OCCUPIED, UNKNOWN, FREE]]


def test_negate_swaps_light_and_dark(folder: Path) -> None:
    """With negate a dark pixel is free."""
    (folder / "floor.yaml").write_text(YAML.replace("negate: 0", "negate: 1"))

    grid = load_map(folder / "floor.yaml").grid

    assert grid[1].tolist() == [FREE, OCCUPIED, OCCUPIED]


@settings(max_examples=30, deadline=None)
@given(
    grid=arrays(
        np.int8,
        array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([UNKNOWN, FREE, OCCUPIED]),
    ),
    resolution=st.floats(0.001, 10.0),
    origin=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
)
def test_a_saved_map_loads_back_identical(
    tmp_path_factory: pytest.TempPathFactory,
    grid: Grid,
    resolution: float,
    origin: tuple[float, float],
) -> None:
    """Grid, frame and bytes are the same after a round trip."""
    grid[0, 0] = FREE
    frame = GridFrame(grid.shape[0], grid.shape[1], resolution, *origin)
    path = tmp_path_factory.mktemp("maps") / "some.yaml"

    save_map(path, grid, frame)
    written = path.read_bytes() + path.with_suffix(".pgm").read_bytes()
    floor = load_map(path)
    save_map(path, floor.grid, floor.frame)

    assert np.array_equal(floor.grid, grid)
    assert floor.frame == frame
    assert path.read_bytes() + path.with_suffix(".pgm").read_bytes() == written


def test_a_grid_that_does_not_fit_its_frame_is_not_saved(tmp_path: Path) -> None:
    """A map with a wrong header is never written."""
    with pytest.raises(ValueError, match="does not fit frame"):
        save_map(tmp_path / "some.yaml", np.zeros((2, 2), np.int8), GridFrame(2, 3, 0.1))

    assert list(tmp_path.iterdir()) == []


def yaml_is(text: str) -> Callable[[Path], object]:
    """Damage the map: replace the yaml."""
    return lambda folder: (folder / "floor.yaml").write_text(text)


def yaml_has(old: str, new: str) -> Callable[[Path], object]:
    """Damage the map: replace a part of the yaml."""
    assert old in YAML
    return yaml_is(YAML.replace(old, new))


def image_is(content: bytes) -> Callable[[Path], object]:
    """Damage the map: replace the image."""
    return lambda folder: (folder / "floor.pgm").write_bytes(content)


def image_links_outside(folder: Path) -> None:
    """Damage the map: link the image to a file outside the folder."""
    (folder / "floor.pgm").unlink()
    (folder / "floor.pgm").symlink_to(folder.parent / "outside.pgm")


def image_links_to_itself(folder: Path) -> None:
    """Damage the map: link the image to itself."""
    (folder / "floor.pgm").unlink()
    (folder / "floor.pgm").symlink_to(folder / "floor.pgm")


def image_is_a_pipe(folder: Path) -> None:
    """Damage the map: make the image a pipe, which would block its reader."""
    (folder / "floor.pgm").unlink()
    os.mkfifo(folder / "floor.pgm")


def image_outside_by_absolute_path(folder: Path) -> None:
    """Damage the map: name an image elsewhere by its absolute path."""
    outside = folder.parent / "outside.pgm"
    (folder / "floor.yaml").write_text(YAML.replace("floor.pgm", str(outside)))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "yaml missing": (lambda folder: (folder / "floor.yaml").unlink(), "no such file"),
    "not yaml": (yaml_is("image: [floor.pgm"), "not yaml"),
    "yaml of bytes": (
        lambda folder: (folder / "floor.yaml").write_bytes(b"image: \x80\xff"),
        "not yaml",
    ),
    "yaml nested deep": (yaml_is("[" * 30_000), "nested deeper"),
    "yaml nested in blocks": (yaml_is("- " * 30_000), "nested deeper"),
    "yaml with an impossible date": (yaml_is(YAML + "made: 2001-99-99\n"), "not yaml"),
    "yaml with an object": (yaml_is("!!python/object/apply:os.getcwd []"), "not yaml"),
    "not a mapping": (yaml_is("- image\n- resolution\n"), "found list"),
    "empty yaml": (yaml_is(""), "found NoneType"),
    "anchor": (yaml_has("negate: 0", "negate: &no 0"), "anchors and aliases"),
    "alias": (yaml_is("a: &a [x]\nb: *a\n"), "anchors and aliases"),
    "yaml too large": (yaml_is(YAML + "#" * 65_536), "larger than 65536 bytes"),
    **{
        f"no {line.partition(':')[0]}": (
            yaml_has(line + "\n", ""),
            f"key '{line.partition(':')[0]}' is missing",
        )
        for line in YAML.splitlines()
    },
    "image not text": (yaml_has("floor.pgm", "7"), "key 'image': expected a file name, found 7"),
    "image empty": (yaml_has("floor.pgm", "''"), "key 'image'"),
    "resolution text": (yaml_has("0.05", "fine"), "key 'resolution': expected a number"),
    "resolution bool": (yaml_has("0.05", "yes"), "key 'resolution': expected a number"),
    "resolution zero": (yaml_has("0.05", "0.0"), "key 'resolution'"),
    "resolution not a number": (yaml_has("0.05", ".nan"), "key 'resolution'"),
    "origin short": (
        yaml_has("[-1.0, 2.0, 0.0]", "[0.0, 0.0]"),
        "key 'origin': expected [x, y, yaw]",
    ),
    "origin text": (yaml_has("[-1.0, 2.0, 0.0]", "abc"), "key 'origin': expected [x, y, yaw]"),
    "origin infinite": (yaml_has("-1.0", "-.inf"), "key 'origin'"),
    "negate other": (yaml_has("negate: 0", "negate: 2"), "key 'negate'"),
    "threshold high": (yaml_has("0.65", "1.5"), "key 'occupied_thresh'"),
    "thresholds crossed": (yaml_has("0.196", "0.9"), "key 'free_thresh'"),
    "mode": (yaml_is(YAML + "mode: fuzzy\n"), "key 'mode': expected trinary, scale or raw"),
    "origin turned too far": (yaml_has("0.0]", "1e7]"), "key 'origin': expected -1e+06"),
    "two equal keys": (
        yaml_is(YAML + "resolution: 0.1\n"),
        "'resolution' is given twice, in lines 2 and 7",
    ),
    "two equal keys within": (
        yaml_is(YAML + "made:\n  by: me\n  by: you\n"),
        "'by' is given twice",
    ),
    "two equal keys, quoted": (yaml_is(YAML + "'negate': 1\n"), "'negate' is given twice"),
    "number with underscore": (yaml_has("0.05", "0_05"), "key 'resolution': expected a number"),
    "number of base 60": (yaml_has("-1.0", "1:30"), "key 'origin': expected a number"),
    "number infinite, quoted": (yaml_has("0.05", "'inf'"), "key 'resolution': expected a number"),
    "number with unit": (yaml_has("0.05", "0.05 m"), "key 'resolution': expected a number"),
    "tab as indentation": (yaml_is(YAML + "made:\n\tby: me\n"), "not yaml"),
    "image instead of yaml": (
        yaml_is(PGM.decode("latin-1")),
        "is an image: give a yaml that names it",
    ),
    "image jpeg": (image_is(b"\xff\xd8\xff\xe0"), "convert it, for example with magick floor.pgm"),
    "png damaged": (
        image_is(b"\x89PNG\r\n\x1a\n" + bytes(8) + bytes([0, 0, 0, 3, 0, 0, 0, 2])),
        "is damaged",
    ),
    "png too large": (
        image_is(b"\x89PNG\r\n\x1a\n" + bytes(8) + bytes([0, 0, 15, 161, 0, 0, 15, 160])),
        "4001 x 4000 pixels, more than 16000000 allowed",
    ),
    "plain image too short": (
        image_is(b"P2\n3 2\n255\n0 1 2 3 4\n"),
        "5 numbers, its header says 3 x 2",
    ),
    "plain image of letters": (image_is(b"P2\n3 2\n255\n0 1 x 3 4 5\n"), "2 numbers"),
    "plain image of signs": (image_is(b"P2\n3 2\n255\n0 1 -2 3 4 5\n"), "2 numbers"),
    "16 bit image too short": (image_is(b"P5\n3 2\n65535\n" + bytes(11)), "11 bytes of pixels"),
    "image missing": (lambda folder: (folder / "floor.pgm").unlink(), "'floor.pgm' is missing"),
    "image is a folder": (yaml_has("floor.pgm", "."), "is missing"),
    "image is a pipe": (image_is_a_pipe, "is missing"),
    "image not pgm": (image_is(b"\x89PNG\r\n\x1a\n"), "not a binary pgm"),
    "image empty file": (image_is(b""), "not a binary pgm"),
    "image too short": (image_is(PGM[:-1]), "5 bytes of pixels, its header says 3 x 2"),
    "image of no size": (image_is(b"P5\n0 0\n255\n"), "0 bytes of pixels"),
    "image of 17 bit": (image_is(PGM.replace(b"255", b"65536")), "largest value 65536"),
    "image too large": (
        image_is(b"P5\n4001 4000\n255\n"),
        "4001 x 4000 pixels, more than 16000000 allowed",
    ),
    "image above": (yaml_has("floor.pgm", "../outside.pgm"), "outside the folder"),
    "image absolute": (image_outside_by_absolute_path, "outside the folder"),
    "image linked outside": (image_links_outside, "outside the folder"),
    "image linked to itself": (image_links_to_itself, "'floor.pgm'"),
    "no free cell": (image_is(PGM[:-6] + bytes(6)), "has no free cell"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_map_is_rejected_in_one_line_that_names_file_and_fault(
    folder: Path, fault: str
) -> None:
    """Every kind of damage gives an error with the file and the fault, and no other exception."""
    damage, message = FAULTS[fault]
    damage(folder)

    with pytest.raises(MapError) as rejected:
        load_map(folder / "floor.yaml")

    assert "floor.yaml" in str(rejected.value)
    assert message in str(rejected.value)
    assert "\n" not in str(rejected.value)


def test_an_image_in_a_folder_below_is_allowed(folder: Path) -> None:
    """The check against leaving the folder allows subfolders."""
    (folder / "images").mkdir()
    (folder / "floor.pgm").rename(folder / "images" / "floor.pgm")
    (folder / "floor.yaml").write_text(YAML.replace("floor.pgm", "images/floor.pgm"))

    assert load_map(folder / "floor.yaml").grid.shape == (2, 3)


def test_an_area_is_found_by_its_name(folder: Path) -> None:
    """A name leads to its yaml."""
    assert find_map(folder, "floor") == folder / "floor.yaml"


def test_an_unknown_area_is_answered_with_the_known_ones(folder: Path) -> None:
    """A mistyped area lists the maps that exist."""
    (folder / "attic.yaml").write_text(YAML)

    with pytest.raises(MapError) as rejected:
        find_map(folder, "depot")

    assert str(rejected.value) == "map 'depot': no file depot.yaml in maps/ (found: attic, floor)"


@pytest.mark.parametrize(
    "area", ["", ".", "..", "../floor", "a/b", "a.b", "-a", "_a", "a" * 65, "a\n", "fl oor", "\0"]
)
def test_a_malformed_area_never_reaches_the_disk(folder: Path, area: str) -> None:
    """A name that could be a path is rejected by its form."""
    with pytest.raises(MapError, match="a name is 1 to 64 letters"):
        find_map(folder, area)


def test_an_area_outside_the_folder_is_rejected(folder: Path) -> None:
    """A symbolic link in the folder does not open the rest of the disk."""
    (folder.parent / "secret.yaml").write_text(YAML)
    (folder / "door.yaml").symlink_to(folder.parent / "secret.yaml")

    with pytest.raises(MapError, match="is outside maps/"):
        find_map(folder, "door")
