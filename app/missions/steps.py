"""Which step of a mission an event type belongs to, forward or back."""

STEPS = {
    "resources:allocate": "allocate_resources",
    "routing:plan": "plan_route",
    "exploration:perform": "perform_exploration",
    "map:integrate": "integrate_maps",
}
UNDO = {
    "resources:release": "allocate_resources",
    "exploration:abort": "perform_exploration",
    "map:rollback": "integrate_maps",
}
