"""Which robots hear one another: by distance, by walls, over chains."""

import numpy as np
import pytest

from app.exploration.driver import Pose
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, FloorMap, GridFrame
from app.exploration.planning.radio_spec import BadRadio, check_radio
from app.exploration.simulation.radio import (
    DistanceRadio,
    Ir2Radio,
    PerfectRadio,
    components,
    parse_radio,
)


def floor(*, wall: int = 0, value: int = OCCUPIED) -> FloorMap:
    """Draw free ground of 60 by 2 m with a wall of some cells of 0.1 m across."""
    grid = np.full((20, 600), FREE, np.int8)
    grid[:, 100 : 100 + wall] = value
    return FloorMap("strip", grid, GridFrame(20, 600, 0.1))


@pytest.mark.parametrize(("metres", "heard"), [(3.0, True), (31.0, True), (31.3, False)])
def test_free_ground_carries_31_m(metres: float, heard: bool) -> None:
    """19 dB are left after the sender and the constant loss: 35 pixels times 10 ** (19 / 20)."""
    radio = Ir2Radio(floor())

    assert radio.reaches(Pose(5.0, 1.0), Pose(5.0 + metres, 1.0)) is heard


@pytest.mark.parametrize("value", [OCCUPIED, UNKNOWN])
@pytest.mark.parametrize(("wall", "heard"), [(1, True), (2, True), (3, False), (8, False)])
def test_a_wall_of_30_cm_ends_the_radio(wall: int, value: int, heard: bool) -> None:
    """Unknown ground counts as wall: 40 log10 of 3 pixels are more than the 19 dB that are left."""
    radio = Ir2Radio(floor(wall=wall, value=value))

    assert radio.reaches(Pose(9.0, 1.0), Pose(11.5, 1.0)) is heard
    assert radio.reaches(Pose(11.5, 1.0), Pose(9.0, 1.0)) is heard


def test_the_received_power_is_that_of_the_paper() -> None:
    """Without a wall and within 35 pixels -51 dB are received; ten times as far, 20 dB less."""
    radio = Ir2Radio(floor())

    assert radio.received_db(Pose(1.0, 1.0), Pose(3.0, 1.0)) == -51.0
    assert radio.received_db(Pose(1.0, 1.0), Pose(36.0, 1.0)) == pytest.approx(-71.0, abs=0.01)


def test_messages_pass_over_chains() -> None:
    """A robot between two others joins them."""
    radio = DistanceRadio(5.0)
    row = [Pose(0.0, 0.0), Pose(8.0, 0.0), Pose(20.0, 0.0), Pose(4.0, 0.0)]

    assert components(row, radio) == [[0, 1, 3], [2]]
    assert components(row[:3], radio) == [[0], [1], [2]]
    assert components(row, PerfectRadio()) == [[0, 1, 2, 3]]
    assert components([], radio) == []


def test_each_form_is_read() -> None:
    """All forms that the error names make a model."""
    assert isinstance(parse_radio("perfect", floor()), PerfectRadio)
    assert isinstance(parse_radio("ir2", floor()), Ir2Radio)
    assert parse_radio("distance:12.5", floor()) == DistanceRadio(12.5)
    assert parse_radio("distance:0", floor()) == DistanceRadio(0.0)


@pytest.mark.parametrize(
    "text", ["", "none", "IR2", "ir2:5", "distance", "distance:", "distance:-1", "distance:nan"]
)
def test_other_forms_are_refused_in_one_line(text: str) -> None:
    """The error names the field, what was given, and the forms that exist."""
    with pytest.raises(BadRadio, match=r"^radio: .*; give perfect, ir2, or distance:METRES$"):
        check_radio(text)
