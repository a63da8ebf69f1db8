"""Event types of the application's commands, and the mission step that each belongs to.

Streams are settings (`app.config`). `app.missions.mission_saga` declares which stream carries
the commands of which step.
"""

from typing import Literal

RESOURCES_ALLOCATE = "resources:allocate"
RESOURCES_RELEASE = "resources:release"
ROUTING_PLAN = "routing:plan"
EXPLORATION_PERFORM = "exploration:perform"
EXPLORATION_ABORT = "exploration:abort"
MAP_INTEGRATE = "map:integrate"
MAP_ROLLBACK = "map:rollback"
MISSION_START = "mission:start"

ROBOT_DEPLOY = "robot:deploy"
ROBOT_DRIVE = "robot:drive"
ROBOT_REPORT = "robot:report"
ROBOT_RECALL = "robot:recall"

FORWARD_STEPS = {
    RESOURCES_ALLOCATE: "allocate_resources",
    ROUTING_PLAN: "plan_route",
    EXPLORATION_PERFORM: "perform_exploration",
    MAP_INTEGRATE: "integrate_maps",
}
"""The step that each forward event type starts, in mission order."""

COMPENSATED_STEPS = {
    RESOURCES_RELEASE: "allocate_resources",
    EXPLORATION_ABORT: "perform_exploration",
    MAP_ROLLBACK: "integrate_maps",
}
"""The step that each compensation undoes."""


def step_of(event_type: str) -> tuple[str, Literal["forward", "undo"]] | None:
    """Return the step and direction of an event type; None if it belongs to no step."""
    if event_type in COMPENSATED_STEPS:
        return COMPENSATED_STEPS[event_type], "undo"
    if event_type in FORWARD_STEPS:
        return FORWARD_STEPS[event_type], "forward"
    return None
