"""Ranges measure the floor, and evidence reflects the ranges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.exploration.grid import Box, GridFrame, LogOdds, Mask
from app.exploration.lidar import (
    CLAMP_UNITS,
    HIT_UNITS,
    MISS_UNITS,
    beam_angles,
    cast_rays,
    integrate,
    mark_visible,
)

FRAME = GridFrame(rows=60, cols=80, resolution=0.1, origin_x=-2.0, origin_y=1.0)


def room() -> Mask:
    """Draw a closed room of 8 by 6 metres with walls one cell thick."""
    blocked = np.zeros((FRAME.rows, FRAME.cols), np.bool_)
    blocked[[0, -1]] = True
    blocked[:, [0, -1]] = True
    return blocked


def scan(blocked: Mask, at: tuple[float, float], evidence: LogOdds) -> Box | None:
    """Take one scan without noise."""
    angles = beam_angles(360, 0.001)
    ranges = cast_rays(blocked, FRAME, at, angles, reach=8.0)
    return integrate(evidence, FRAME, at, angles, ranges, reach=8.0)


def test_ranges_are_the_distances_to_the_middle_of_the_walls() -> None:
    """Along the axes a range ends in the middle of a wall's cell."""
    at = FRAME.centre(20, 30)

    ranges = cast_rays(room(), FRAME, at, beam_angles(4), reach=8.0)

    assert ranges == pytest.approx([4.9, 3.9, 3.0, 2.0])


def test_a_straight_wall_is_straight_at_its_surface() -> None:
    """On the surface returns of a wall lie on a line; in the middle of the cells they lie on a curve."""
    angles = np.linspace(-1.2, 1.2, 201)
    x, y = FRAME.centre(30, 70)

    surface, middle = (
        x + np.cos(angles) * cast_rays(room(), FRAME, (x, y), angles, reach=20.0, chord_share=share)
        for share in (0.0, 0.5)
    )

    assert surface == pytest.approx(np.full(201, 5.9))
    assert middle[100] == pytest.approx(5.95)
    assert np.abs(middle[[0, -1]] - 5.9).max() < 0.03


def test_a_beam_that_meets_nothing_in_reach_returns_infinity() -> None:
    """Beyond its reach the lidar reports nothing."""
    at = FRAME.centre(20, 30)

    ranges = cast_rays(room(), FRAME, at, beam_angles(4), reach=3.5)

    assert ranges == pytest.approx([math.inf, math.inf, 3.0, 2.0])


def test_the_edge_of_the_grid_stops_a_ray() -> None:
    """Cells outside the floor are unknown, and unknown cells stop rays."""
    open_ground = np.zeros((FRAME.rows, FRAME.cols), np.bool_)

    ranges = cast_rays(open_ground, FRAME, FRAME.centre(20, 30), beam_angles(16), reach=100.0)

    assert np.isfinite(ranges).all()


@settings(max_examples=50, deadline=None)
@given(row=st.floats(1.01, 58.99), col=st.floats(1.01, 78.99), phase=st.floats(-10.0, 10.0))
def test_evidence_without_noise_is_never_wrong(row: float, col: float, phase: float) -> None:
    """Without noise, evidence agrees with the floor in every cell that it changes."""
    blocked = room()
    blocked[25:35, 40:44] = True
    at = FRAME.centre(row - 0.5, col - 0.5)
    if blocked[FRAME.cell(*at)]:
        return
    evidence = np.zeros(blocked.shape, np.int8)
    angles = beam_angles(90, phase)

    ranges = cast_rays(blocked, FRAME, at, angles, reach=8.0)
    integrate(evidence, FRAME, at, angles, ranges, reach=8.0)

    assert (evidence[blocked] >= 0).all()
    assert (evidence[~blocked] <= 0).all()


def test_one_beam_adds_misses_up_to_its_hit() -> None:
    """A beam along a row changes exactly the cells from the robot to the wall."""
    evidence = np.zeros((FRAME.rows, FRAME.cols), np.int8)

    box = integrate(evidence, FRAME, FRAME.centre(20, 30), np.zeros(1), np.array([0.5]), reach=8.0)

    assert evidence[20, 29:37].tolist() == [0, *[-MISS_UNITS] * 5, HIT_UNITS, 0]
    assert np.count_nonzero(evidence) == 6
    assert box == Box(20, 30, 21, 36)


def test_a_beam_without_return_adds_misses_only() -> None:
    """Without a return, cells up to the reach are free, and none is occupied."""
    evidence = np.zeros((FRAME.rows, FRAME.cols), np.int8)

    integrate(evidence, FRAME, FRAME.centre(20, 30), np.zeros(1), np.array([np.inf]), reach=1.0)

    assert np.flatnonzero(evidence[20]).tolist() == list(range(30, 41))
    assert (evidence <= 0).all()


def test_evidence_is_clamped_on_both_sides() -> None:
    """After any number of scans a changed floor can still be learned, and int8 never overflows."""
    evidence = np.zeros((FRAME.rows, FRAME.cols), np.int8)

    for _ in range(20):
        scan(room(), FRAME.centre(20, 30), evidence)

    assert (evidence.min(), evidence.max()) == (-CLAMP_UNITS, CLAMP_UNITS)


def test_the_box_holds_every_change() -> None:
    """The box holds all changed cells, and no further row or column."""
    evidence = np.zeros((FRAME.rows, FRAME.cols), np.int8)
    scan(room(), FRAME.centre(20, 30), evidence)
    before = evidence.copy()

    box = scan(room(), FRAME.centre(30, 50), evidence)

    changed = np.argwhere(evidence != before)
    assert box == Box(*changed.min(axis=0), *(changed.max(axis=0) + 1))


def test_a_scan_that_changes_nothing_has_no_box() -> None:
    """Saturated evidence does not change any more."""
    evidence = np.zeros((FRAME.rows, FRAME.cols), np.int8)
    for _ in range(20):
        scan(room(), FRAME.centre(20, 30), evidence)

    assert scan(room(), FRAME.centre(20, 30), evidence) is None


@pytest.mark.parametrize("at", [(-2.01, 2.0), (6.01, 2.0), (0.0, 0.99), (0.0, 7.01)])
def test_a_scan_from_outside_the_grid_is_rejected(at: tuple[float, float]) -> None:
    """Beyond each edge the scan is an error and changes no evidence."""
    evidence = np.zeros((FRAME.rows, FRAME.cols), np.int8)

    with pytest.raises(ValueError, match="outside the grid"):
        cast_rays(room(), FRAME, at, beam_angles(4), reach=8.0)
    with pytest.raises(ValueError, match="outside the grid"):
        integrate(evidence, FRAME, at, beam_angles(4), np.ones(4), reach=8.0)


def test_visibility_ends_at_walls() -> None:
    """A cell behind an obstacle is not visible, one next to it is."""
    blocked = room()
    blocked[10:30, 40] = True

    seen = mark_visible(blocked, np.array([[20, 30]]), beam_angles(720), 80.0)

    assert seen[20, 39]
    assert seen[20, 40]
    assert not seen[20, 41]
    assert seen[50, 50]
