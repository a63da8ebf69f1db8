"""The mission as a saga: its four steps, what each is asked, and what undoes it."""

from typing import Any

from app.config import Settings, get_settings
from sagastream.saga import Compensation, Saga, SagaRunner, Step

Results = Any


def mission_saga(settings: Settings) -> Saga:
    """The declaration of a mission."""
    return Saga(
        "mission",
        (
            Step(
                "allocate_resources",
                settings.resources_stream,
                "resources:allocate",
                lambda mission, _: mission,
                Compensation("resources:release", _which),
                timeout=settings.allocate_timeout_s,
            ),
            Step(
                "plan_route",
                settings.routing_stream,
                "routing:plan",
                lambda mission, results: mission | results["allocate_resources"],
                timeout=settings.plan_timeout_s,
            ),
            Step(
                "perform_exploration",
                settings.exploration_stream,
                "exploration:perform",
                lambda mission, results: mission | results["plan_route"],
                Compensation(
                    "exploration:abort",
                    lambda mission, results: (
                        _which(mission, results) | results["allocate_resources"]
                    ),
                ),
                timeout=settings.explore_timeout_s,
            ),
            Step(
                "integrate_maps",
                settings.map_stream,
                "map:integrate",
                lambda mission, results: mission | results["perform_exploration"],
                Compensation("map:rollback", _which),
                timeout=settings.integrate_timeout_s,
            ),
        ),
    )


def _which(mission: dict[str, Any], _results: Results) -> dict[str, Any]:
    return {"mission": mission["mission"]}


def mission_runner() -> SagaRunner:
    """The engine of missions on this process's bus."""
    from app.redis_utils import get_bus  # noqa: PLC0415 - a runner needs a server, a saga none

    return SagaRunner(get_bus(), mission_saga(get_settings()))
