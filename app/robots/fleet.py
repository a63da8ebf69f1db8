"""The fleet registry: every robot, its battery, its position, and the mission that holds it.

It is one hash on the server with one field per robot. Handlers change it with the writes of the
`atomic` effect policy: a mission gets all robots that it asks for or none, and a handler that
lost its claim changes nothing.
"""

import json
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from app.config import Settings, get_settings
from app.redis_utils import get_bus
from sagastream import Bus, SagastreamError, Write

logger = logging.getLogger(__name__)

FLEET = "fleet"
_NAMED = 3  # robots that are unavailable, in an error
_YARD_M = 40.0


class TooFewRobots(SagastreamError):
    """Fewer robots are available than the mission asks for.

    Attributes:
        wanted: The number of robots asked for.
        free: The number of robots that are available.
        why: How many are held, absent or low on battery.
    """

    def __init__(self, wanted: int, free: int, why: str) -> None:
        super().__init__(f"{wanted} robots asked for, {free} free ({why})")
        self.wanted = wanted
        self.free = free
        self.why = why

    def __reduce__(self) -> tuple[type, tuple[int, int, str]]:
        return type(self), (self.wanted, self.free, self.why)


class RobotsCharging(TooFewRobots):
    """Too few robots are charged enough now, but enough of them charge: try again later."""


@dataclass(frozen=True, slots=True)
class Robot:
    """A robot as registered.

    Attributes:
        name: The robot's id.
        battery: Charge in percent at the time `since`.
        x: Its parking position, metres straight away from the gate.
        y: Its parking position, metres to the side of the gate.
        holder: The mission that holds it; '' if it is free.
        since: When it was reserved or released, in seconds since the Unix epoch.
        present: Whether its process has checked in recently.
        measured: The charge in percent that the robot itself reports; None if it reports none.
        unavailable: Why it takes no orders for now, as it reports; '' if it does.
        explores_unknown: Whether it can take part in missions with unknown poses.
    """

    name: str
    battery: float
    x: float
    y: float
    holder: str = ""
    since: float = 0.0
    present: bool = False
    measured: float | None = None
    unavailable: str = ""
    explores_unknown: bool = True

    def charge(self, now: float, settings: Settings) -> float:
        """Return the charge at the time `now`, in percent: a free robot charges."""
        if self.measured is not None:
            return self.measured
        gained = 0.0 if self.holder else (now - self.since) * settings.charge_per_s
        return min(100.0, self.battery + gained)

    def fitness(self, now: float, settings: Settings) -> float:
        """Return the charge that is left after the drive to the gate, in percent."""
        distance_m = math.hypot(self.x, self.y)
        return self.charge(now, settings) - distance_m * settings.battery_per_metre


def choose(robots: Sequence[Robot], wanted: int, now: float, settings: Settings) -> list[Robot]:
    """Choose the robots with the most charge after the drive to the gate, and sort them by name.

    Raises:
        RobotsCharging: Fewer robots are charged, and enough will be.
        TooFewRobots: Fewer robots are available.
    """
    held = [robot for robot in robots if robot.holder]
    absent = [robot for robot in robots if not robot.holder and not robot.present]
    there = [robot for robot in robots if not robot.holder and robot.present]
    parked = [robot for robot in there if not robot.unavailable]
    able = [robot for robot in parked if robot.fitness(now, settings) >= settings.battery_least]
    if len(able) < wanted:
        full = [replace(robot, battery=100.0, measured=None) for robot in parked]
        reach = [robot for robot in full if robot.fitness(now, settings) >= settings.battery_least]
        reasons = [f"{each.name}: {each.unavailable}" for each in there if each.unavailable]
        will_do = len(reach) >= wanted and settings.charge_per_s > 0
        raise (RobotsCharging if will_do else TooFewRobots)(
            wanted,
            len(able),
            f"of {len(robots)}: {len(held)} held, {len(absent)} absent, "
            + (f"{len(there) - len(parked)} unavailable, " if len(there) > len(parked) else "")
            + f"{len(parked) - len(able)} low on battery"
            + "".join(f"; {reason}" for reason in reasons[:_NAMED]),
        )
    best = sorted(able, key=lambda robot: (-robot.fitness(now, settings), robot.name))[:wanted]
    return sorted(best, key=lambda robot: robot.name)


async def robots(bus: Bus | None = None) -> list[Robot]:
    """Read every robot of the fleet, sorted by name.

    Args:
        bus: The server to read; None for this process's bus.
    """
    bus = bus or get_bus()
    stored = await bus.command("HGETALL", bus.key(FLEET))
    names = sorted(name.decode(errors="replace") for name in stored)
    stored = {name.decode(errors="replace"): text for name, text in stored.items()}
    seen = await bus.command("MGET", *(_seen_key(bus, name) for name in names)) if names else []
    found = [
        _load(name, stored[name], last_seen) for name, last_seen in zip(names, seen, strict=True)
    ]
    return [robot for robot in found if robot]


def _load(name: str, text: bytes, last_seen: bytes | None = None) -> Robot | None:
    """Read a robot's record; None, and a line in the log, if it is malformed."""
    try:
        robot = Robot(**json.loads(text), present=last_seen is not None)
        _check(robot, name)
        if last_seen not in {None, b"1"}:
            robot = _with_condition(robot, json.loads(last_seen or b"{}"))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        logger.warning("the record of robot %s is malformed and left out: %.200s", name, error)
        return None
    return robot


def _with_condition(robot: Robot, reported: Mapping[str, Any]) -> Robot:
    """Add what a robot reported when it checked in."""
    measured, unavailable = reported["measured"], reported["unavailable"]
    known = measured is None or (type(measured) in {int, float} and math.isfinite(measured))
    if not isinstance(unavailable, str) or not known:
        raise TypeError(f"{reported!r:.80} is no condition of a robot")
    return replace(
        robot,
        measured=measured,
        unavailable=unavailable,
        explores_unknown=reported.get("explores_unknown") is not False,
    )


def _check(robot: Robot, name: str) -> None:
    numbers = (robot.battery, robot.x, robot.y, robot.since)
    if not all(type(each) in {int, float} and math.isfinite(each) for each in numbers):
        raise TypeError(f"{numbers} are not finite numbers")
    if robot.name != name or not isinstance(robot.holder, str):
        raise TypeError(f"{robot.name!r:.80} and {robot.holder!r:.80} are not its name and holder")


async def presence(bus: Bus) -> list[bool]:
    """Read for each robot of the fleet whether it is present."""
    return [robot.present for robot in await robots(bus)]


async def is_present(name: str) -> bool:
    """Return whether a robot's process has checked in recently."""
    bus = get_bus()
    return bool(await bus.command("EXISTS", _seen_key(bus, name)))


async def holder(name: str) -> str:
    """Return the mission that holds a robot; '' if none does."""
    stored = await get_bus().command("HGET", get_bus().key(FLEET), name)
    robot = _load(name, stored) if stored else None
    return robot.holder if robot else ""


async def check_in(
    name: str,
    *,
    measured: float | None = None,
    unavailable: str = "",
    explores_unknown: bool = True,
) -> None:
    """Report a robot as present for `robot_seen_s` seconds; register it if it is new.

    Args:
        name: The robot's id.
        measured: The charge that the robot reports, in percent; None if it reports none.
        unavailable: Why it takes no orders for now; '' if it does.
        explores_unknown: Whether it can take part in missions with unknown poses.
    """
    bus = get_bus()
    parking = random.Random(name)  # noqa: S311 - where a simulated robot is parked
    robot = Robot(
        name=name,
        battery=parking.uniform(70.0, 100.0),
        x=parking.uniform(0.0, _YARD_M),
        y=parking.uniform(-_YARD_M, _YARD_M),
        since=time.time(),
    )
    await bus.command("HSETNX", bus.key(FLEET), name, _dump(robot))
    seen_ms = round(get_settings().robot_seen_s * 1000)
    condition = "1"
    if measured is not None or unavailable or not explores_unknown:
        condition = json.dumps(
            {
                "measured": measured,
                "unavailable": unavailable,
                "explores_unknown": explores_unknown,
            }
        )
    await bus.command("SET", _seen_key(bus, name), condition, "PX", seen_ms)


async def check_out(name: str) -> None:
    """Report a robot as absent."""
    bus = get_bus()
    await bus.command("DEL", _seen_key(bus, name))


async def reserve(
    mission: str, wanted: int, *, known_poses: bool = True
) -> tuple[list[str], tuple[Write, ...]]:
    """Reserve all robots that a mission asks for, or none.

    Reserving again for the same mission returns the same robots.

    Args:
        mission: The mission.
        wanted: The number of robots.
        known_poses: Whether it tells the robots their poses; else some cannot take part.

    Returns:
        The sorted names, where a robot's index is its slot in the mission; and the writes that
        reserve the robots, for an `atomic` handler to return.

    Raises:
        TooFewRobots: Fewer robots are available.
    """
    fleet = await robots()
    mine = [robot.name for robot in fleet if robot.holder == mission]
    if mine:
        return mine, ()
    if not known_poses:
        fleet = [
            each
            if each.explores_unknown
            else replace(each, unavailable=each.unavailable or "it needs known poses")
            for each in fleet
        ]
    now = time.time()
    settings = get_settings()
    chosen = choose(fleet, wanted, now, settings)
    taken = [
        replace(robot, holder=mission, since=now, battery=robot.charge(now, settings))
        for robot in chosen
    ]
    return [robot.name for robot in taken], _writes(chosen, taken)


async def release(
    mission: str, driven: Mapping[str, float] | None = None, *, only: str = ""
) -> tuple[list[str], tuple[Write, ...]]:
    """Release the robots that a mission holds.

    Args:
        mission: The mission that holds them.
        driven: Metres that each robot drove, by name; its battery loses charge accordingly.
        only: The one robot to release; '' for all.

    Returns:
        The names of the released robots, and the writes that release them, for an `atomic`
        handler to return.
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


def _seen_key(bus: Bus, name: str) -> str:
    return bus.key(f"fleet:seen:{name}")


def _dump(robot: Robot) -> str:
    fields = asdict(robot)
    for name in ("present", "measured", "unavailable", "explores_unknown"):
        del fields[name]
    return json.dumps(fields, sort_keys=True)
