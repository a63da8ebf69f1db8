"""Event types and the saga's declaration agree."""

from app.config import Settings
from app.event_types import COMPENSATED_STEPS, FORWARD_STEPS, step_of
from app.missions.mission_saga import mission_saga


def test_every_step_has_its_event_types() -> None:
    """Each step's forward and compensating event types map to its name, in mission order."""
    steps = mission_saga(Settings()).every_step()
    assert list(FORWARD_STEPS.items()) == [(step.event_type, step.name) for step in steps]
    assert {
        step.compensation.event_type: step.name for step in steps if step.compensation
    } == COMPENSATED_STEPS


def test_steps_use_the_configured_streams() -> None:
    """Readiness is checked for exactly the streams that carry steps."""
    settings = Settings()
    streams = {step.stream for step in mission_saga(settings).every_step()}
    assert streams == set(settings.step_streams)


def test_other_event_types_belong_to_no_step() -> None:
    """Orders to robots and `mission:start` are no steps."""
    assert step_of("map:rollback") == ("integrate_maps", "undo")
    assert step_of("map:integrate") == ("integrate_maps", "forward")
    assert step_of("robot:drive") is None
