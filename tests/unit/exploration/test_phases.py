"""The end has come when a long part of the way and the last of it have shown little."""

import pytest

from app.exploration.planning.growth import Growth
from app.exploration.planning.phases import Phase, phase_of
from app.exploration.planning.settings import PlannerSettings

_SHOWN = [(10, 1000)] * 30


@pytest.mark.parametrize(
    ("steps", "phase"),
    [
        (_SHOWN, Phase.GROWING),
        ([*_SHOWN, *[(10, 0)] * 6], Phase.GROWING),  # a corridor
        ([*_SHOWN, *[(10, 60)] * 20], Phase.SLOWING),
        ([*_SHOWN, *[(10, 0)] * 20], Phase.DIMINISHED),
        ([*_SHOWN, *[(10, 0)] * 20, *[(10, 1000)] * 4], Phase.GROWING),  # a room was found
    ],
)
def test_phase(steps: list[tuple[float, int]], phase: Phase) -> None:
    """A corridor does not end an exploration, and a room that is found lets it go on."""
    growth = Growth(window_m=6.0)
    driven, known = 0.0, 500
    growth.add(driven, known)
    for metres, cells in steps:
        driven, known = driven + metres, known + cells
        growth.add(driven, known)

    assert phase_of(growth, PlannerSettings()) is phase
