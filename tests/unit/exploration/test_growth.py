"""Growth has diminished when the last part of the way showed little."""

import pytest

from app.exploration.planning.growth import Growth


@pytest.mark.parametrize(
    ("steps", "diminished"),
    [
        ([], False),
        ([(10, 1000)], False),  # too short to compare
        ([(10, 1000)] * 10, False),
        ([(10, 1000)] * 10 + [(10, 10)], False),  # the window holds 15 m
        ([(10, 1000)] * 10 + [(10, 10)] * 3, True),
        ([(10, 1000)] * 10 + [(10, 10)] * 3 + [(10, 1000)], False),
        ([(10, 1000)] * 10 + [(0, 0)] * 50, False),  # robots that wait find nothing
    ],
)
def test_growth(steps: list[tuple[float, int]], diminished: bool) -> None:
    """The last 15 % of the way are compared with all of it."""
    growth = Growth(window_m=5.0)
    driven, known = 0.0, 500
    growth.add(driven, known)
    for metres, cells in steps:
        driven, known = driven + metres, known + cells
        growth.add(driven, known)

    assert (growth.recent_share(0.15) < 0.08) is diminished
