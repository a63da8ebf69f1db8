"""The fleet registry: which robots there are, how they are, and who holds them.

One hash on the server, a robot a field. It changes by the writes of `atomic` handlers, so
that a mission gets all that it asked for or none, and a handler that lost its claim nothing.
"""

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from app.config import Settings, get_settings
from app.redis_utils import get_bus
from sagastream import SagastreamError, Write

FLEET = "fleet"
_YARD_M = 40.0


class TooFewRobots(SagastreamError):
    """Fewer robots are free than were asked for.

    Attributes:
        wanted: How many were asked for.
        free: How many could go.
    """

    def __init__(self, wanted: int, free: int, why: str) -> None:
        super().__init__(f"{wanted} robots asked for, {free} free ({why})")
        self.wanted = wanted
        self.free = free
        self.why = why

    def __reduce__(self) -> tuple[type, tuple[int, int, str]]:
        return type(self), (self.wanted, self.free, self.why)


@dataclass(frozen=True, slots=True)
class Robot:
    """One robot as the registry has it.

    Attributes:
        name: Its id.
        battery: Percent, when it was last written down.
        x: Where it stands in the yard, metres from the gate.
        y: The same, across.
        holder: The mission that has it, '' if it is free.
        since: When it was taken or set free, in seconds since the epoch.
        present: Whether its process was heard of lately.
    """

    name: str
    battery: float
    x: float
    y: float
    holder: str = ""
    since: float = 0.0
    present: bool = False

    def charge(self, now: float, settings: Settings) -> float:
        """Percent now: a free robot stands at its charger."""
        gained = 0.0 if self.holder else (now - self.since) * settings.charge_per_s
        return min(100.0, self.battery + gained)

    def fitness(self, now: float, settings: Settings) -> float:
        """Percent that are left when it has driven to the gate."""
        way = math.hypot(self.x, self.y)
        return self.charge(now, settings) - way * settings.battery_per_metre


def choose(robots: Sequence[Robot], wanted: int, now: float, settings: Settings) -> list[Robot]:
    """The best robots by battery and distance, in the order of their names.

    Raises:
        TooFewRobots: Not as many can go.
    """
    held = [robot for robot in robots if robot.holder]
    absent = [robot for robot in robots if not robot.holder and not robot.present]
    here = [robot for robot in robots if not robot.holder and robot.present]
    able = [robot for robot in here if robot.fitness(now, settings) >= settings.battery_least]
    if len(able) < wanted:
        raise TooFewRobots(
            wanted,
            len(able),
            f"of {len(robots)}: {len(held)} held, {len(absent)} absent, "
            f"{len(here) - len(able)} low on battery",
        )
    best = sorted(able, key=lambda robot: (-robot.fitness(now, settings), robot.name))[:wanted]
    return sorted(best, key=lambda robot: robot.name)


async def robots() -> list[Robot]:
    """Every robot of the fleet, by name."""
    call = get_bus().command
    stored = await call("HGETALL", get_bus().key(FLEET))
    names = sorted(name.decode() for name in stored)
    seen = await call("MGET", *(_seen_key(name) for name in names)) if names else []
    return [
        Robot(**json.loads(stored[name.encode()]), present=heard is not None)
        for name, heard in zip(names, seen, strict=True)
    ]


async def is_present(name: str) -> bool:
    """Whether a robot's process was heard of lately."""
    return bool(await get_bus().command("EXISTS", _seen_key(name)))


async def holder(name: str) -> str:
    """The mission that has a robot, '' if none has."""
    stored = await get_bus().command("HGET", get_bus().key(FLEET), name)
    return str(json.loads(stored)["holder"]) if stored else ""


async def check_in(name: str) -> None:
    """Say that a robot is there; one that is new joins the fleet."""
    call = get_bus().command
    place = random.Random(name)  # noqa: S311 - where a simulated robot is parked
    robot = Robot(
        name=name,
        battery=place.uniform(70.0, 100.0),
        x=place.uniform(0.0, _YARD_M),
        y=place.uniform(-_YARD_M, _YARD_M),
        since=time.time(),
    )
    await call("HSETNX", get_bus().key(FLEET), name, _dump(robot))
    seen_ms = round(get_settings().robot_seen_s * 1000)
    await call("SET", _seen_key(name), "1", "PX", seen_ms)


async def check_out(name: str) -> None:
    """Say that a robot is gone."""
    await get_bus().command("DEL", _seen_key(name))


async def reserve(mission: str, wanted: int) -> tuple[list[str], tuple[Write, ...]]:
    """Choose the robots of a mission, all that it asks for or none; asked again, the same ones.

    Returns:
        Their names, sorted: a robot's place in the list is its slot in the mission. And the
        writes that make them the mission's, for an `atomic` handler to return.

    Raises:
        TooFewRobots: Not as many are free.
    """
    known = await robots()
    mine = [robot.name for robot in known if robot.holder == mission]
    if mine:
        return mine, ()
    now = time.time()
    settings = get_settings()
    chosen = choose(known, wanted, now, settings)
    taken = [
        replace(robot, holder=mission, since=now, battery=robot.charge(now, settings))
        for robot in chosen
    ]
    return [robot.name for robot in taken], _writes(chosen, taken)


async def release(
    mission: str, driven: Mapping[str, float] | None = None, *, only: str = ""
) -> tuple[list[str], tuple[Write, ...]]:
    """Set free the robots that a mission holds.

    Args:
        mission: Who held them.
        driven: Metres that each drove, by name.
        only: The one robot to set free, '' for all.

    Returns:
        Their names, and the writes that set them free, for an `atomic` handler to return.
    """
    mine = [
        robot for robot in await robots() if robot.holder == mission and only in {"", robot.name}
    ]
    per_metre = get_settings().battery_per_metre
    freed = [
        replace(
            robot,
            holder="",
            since=time.time(),
            battery=max(0.0, robot.battery - (driven or {}).get(robot.name, 0.0) * per_metre),
        )
        for robot in mine
    ]
    return [robot.name for robot in mine], _writes(mine, freed)


def _writes(before: Sequence[Robot], after: Sequence[Robot]) -> tuple[Write, ...]:
    return tuple(
        Write(FLEET, _dump(new), _dump(old), field=old.name)
        for old, new in zip(before, after, strict=True)
    )


def _seen_key(name: str) -> str:
    return get_bus().key(f"fleet:seen:{name}")


def _dump(robot: Robot) -> str:
    fields = asdict(robot)
    del fields["present"]
    return json.dumps(fields, sort_keys=True)
