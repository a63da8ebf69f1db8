"""The application's handlers, some of which fail: a mission's seed says which.

Seed 1000 and up: the step of that number (from 0) fails after its work is done. Seed 2000 and
up: so does its compensation, for as many times as the key `failing` holds.
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
    """What these handlers fail with."""


def failing_seed(step: int) -> int:
    """The seed of a mission whose step of that number fails."""
    return 1000 + step


def _wrapped(handler: Handler) -> Handler:
    async def handle(command: Command, progress: Any) -> Any:
        result = await handler.function(command, progress)
        kind, step = divmod(command.payload.get("seed", 0), 1000)
        if kind and command.event_type == STEPS[step]:
            raise Failed(f"{command.event_type} is to fail")
        if command.event_type in UNDO:
            left = await get_bus().command("DECR", get_bus().key("failing"))
            if left >= 0:
                raise Failed(f"{command.event_type} is to fail {left} more times")
        return result

    return Handler(handler.stream, handler.event_type, handle, handler.effect)


for _number, _handler in enumerate(discover("app.command_handlers.handlers")):
    globals()[f"handler_{_number}"] = _wrapped(_handler)
