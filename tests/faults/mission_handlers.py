"""The application's handlers, some of which fail: the seed of a mission selects the step.

With the seed 1000 + N the step with number N (from 0) fails after its work is done. Each
compensation fails while it can decrement the key `failing` without going below zero.
"""

from typing import Any

from app.redis_utils import get_bus
from sagastream import Command, Handler
from sagastream.handlers import discover

STEPS = ("resources:allocate", "routing:plan", "exploration:perform", "map:integrate")
UNDO = {
    "resources:release": "resources:allocate",
    "exploration:abort": "exploration:perform",
    "map:rollback": "map:integrate",
}


class Failed(Exception):
    """The error of these handlers."""


def failing_seed(step: int) -> int:
    """Return the seed of a mission whose step with this number fails."""
    return 1000 + step


def _wrapped(handler: Handler) -> Handler:
    async def handle(command: Command, progress: Any) -> Any:
        result = await handler.function(command, progress)
        kind, step = divmod(command.payload.get("seed", 0), 1000)
        if kind and command.event_type == STEPS[step]:
            raise Failed(f"{command.event_type} must fail")
        if command.event_type in UNDO:
            left = await get_bus().command("DECR", get_bus().key("failing"))
            if left >= 0:
                raise Failed(f"{command.event_type} must fail {left} more times")
        return result

    return Handler(handler.stream, handler.event_type, handle, handler.effect)


for _number, _handler in enumerate(discover("app.command_handlers.handlers")):
    globals()[f"handler_{_number}"] = _wrapped(_handler)
