"""Recorded runs are read without trusting them, and replayed as a robot."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from app.exploration.driver import Pose
from app.exploration.grid import GridFrame
from app.exploration.lidar import cast_rays
from app.exploration.simulation.log_replay import LogError, LogReplay, read_carmen

LINE = "FLASER 3 1.0 81.9 2.0 9 9 9 0.5 0.25 0.1 1 host 1\n"


def test_a_line_holds_a_scan_and_the_odometry(tmp_path: Path) -> None:
    """Beams spread over half a turn; a beam without return has no end point."""
    path = tmp_path / "run.log.gz"
    path.write_bytes(gzip.compress(("# a comment\n" + LINE).encode()))

    (record,) = read_carmen(path)

    assert record.odometry.tolist() == [0.5, 0.25, 0.1]
    assert np.allclose(record.scan.angles, [-np.pi / 2, 0.0, np.pi / 2])
    assert np.allclose(record.scan.points(), [[0.0, -1.0], [0.0, 2.0]], atol=1e-9)


@pytest.mark.parametrize(
    ("beams", "first", "last"), [(180, -90.0, 89.0), (181, -90.0, 90.0), (361, -90.0, 90.0)]
)
def test_beams_are_spaced_as_the_lidar_spaces_them(
    tmp_path: Path, beams: int, first: float, last: float
) -> None:
    """An even number of beams leaves out the last direction; the spacing is that of one more."""
    path = tmp_path / "run.log"
    path.write_text(f"FLASER {beams} {'1.0 ' * beams}0 0 0 0 0 0 1 host 1\n")

    (record,) = read_carmen(path)

    assert np.degrees(record.scan.angles[[0, -1]]) == pytest.approx([first, last])
    assert np.ptp(np.diff(record.scan.angles)) < 1e-9


@pytest.mark.parametrize("turned", [-1.0, -0.4, 0.0, 0.7, 1.1])
@pytest.mark.parametrize("beams", [360, 361])
def test_beams_of_two_sweeps_are_placed_where_the_robot_looked(
    tmp_path: Path, turned: float, beams: int
) -> None:
    """The robot turns between the sweeps; the directions are those at the middle of the scan."""
    frame = GridFrame(1200, 1200, 0.01)
    blocked = np.ones((1200, 1200), np.bool_)
    blocked[100:900, 100:1100] = False
    blocked[600:900, 900:1100] = True
    numbered = np.radians(-90.0 + 0.5 * np.arange(beams))
    looked = numbered + np.radians(turned) * np.where(np.arange(beams) % 2, 0.5, -0.5)
    ranges = cast_rays(blocked, frame, (5.0, 3.0), looked + 0.3, reach=20.0)
    random = np.random.default_rng(beams)
    ranges += random.normal(0.0, 0.005, beams)
    ranges[100:120], ranges[200::40] = np.nan, 0.0
    text = " ".join(f"{each:.2f}" for each in ranges)
    path = tmp_path / "run.log"
    path.write_text(f"FLASER {beams} {text} 0 0 0 0 0 0 1 host 1\n")

    (record,) = read_carmen(path)

    off = np.degrees(np.abs(record.scan.angles - looked[ranges > 0.0]))
    assert off.max() < (0.06 if turned else 1e-9)


@pytest.mark.parametrize(("low", "high"), [(0.5, 12.0), (20.0, 60.0)])
def test_beams_without_walls_nearby_keep_their_directions(
    tmp_path: Path, low: float, high: float
) -> None:
    """Ranges that change from beam to beam, or are far, show no turn."""
    ranges = np.random.default_rng(0).uniform(low, high, 361)
    path = tmp_path / "run.log"
    path.write_text(f"FLASER 361 {' '.join(map(str, ranges))} 0 0 0 0 0 0 1 host 1\n")

    (record,) = read_carmen(path)

    numbered = np.radians(-90.0 + 0.5 * np.arange(361))
    assert np.allclose(record.scan.angles, numbered)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ODOM 1 2 3\n", "no FLASER line"),
        ("FLASER three 1 2 3\n", "line 1"),
        ("FLASER 9 1.0 2.0 0 0 0 0 0 0 1 host 1\n", "line 1"),
        (LINE + "FLASER 3 1.0 nan\n", "line 2"),
        ("FLASER 1 1.0 0 0 0 0 0 0 1 host 1\n", "line 1"),
    ],
)
def test_a_malformed_log_is_rejected(tmp_path: Path, text: str, fault: str) -> None:
    """The error names the file, the line and the fault."""
    path = tmp_path / "run.log"
    path.write_text(text)

    with pytest.raises(LogError, match=rf"run\.log.*{fault}"):
        read_carmen(path)


def test_a_truncated_archive_is_rejected(tmp_path: Path) -> None:
    """Half a gzip file is an error of the log, not of the reader."""
    path = tmp_path / "run.log.gz"
    path.write_bytes(gzip.compress(LINE.encode() * 50)[:-20])

    with pytest.raises(LogError, match="not gzip"):
        read_carmen(path)


def test_a_real_log_closes_its_loop(exploration_maps: Path | None) -> None:
    """The replayed log of a real robot returns to its start to within centimetres."""
    if exploration_maps is None:
        pytest.skip("EXPLORATION_MAPS names no folder of maps")
    records = read_carmen(exploration_maps / "malaga-telecom.log.gz")
    robot = LogReplay(records, GridFrame(1600, 1600, 0.05, -40.0, -40.0))

    robot.deploy(Pose(0.0, 0.0, 0.0))
    report = robot.drive((), 1000.0)

    assert robot.finished
    assert report.distance > 70.0
    late = [edge for edge in robot.slam.graph.edges if edge.end - edge.start > 100]
    assert len(late) > 10
    assert report.patch.cells.any()
