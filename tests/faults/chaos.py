"""Many missions at once while processes and the server are killed at random.

    python -m tests.faults.chaos --missions 60 --seconds 300 --server-kills 3 [--without-fence]

So many missions are open at any time until the seconds are over, a third of them failing at
some step, two robots each out of a fleet of 128. Prints one JSON object; exits with 1 if a
mission did not end right.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sagastream.testing import EmbeddedServer
from tests.faults.mission_handlers import failing_seed
from tests.faults.mission_rules import Faults, wait_quiet
from tests.faults.mission_rules import judge as judge_mission
from tests.faults.mission_world import World, world_of

_ROBOT_PROCESSES = 8
_ROBOTS = 16
_END_S = 120.0


@dataclass
class Chaos:
    """What was done, and what it came to."""

    started: int = 0
    kills: int = 0
    stops: int = 0
    server_kills: int = 0
    completed: int = 0
    compensated: int = 0
    unfinished: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)


def run(
    store: EmbeddedServer,
    place: Path,
    *,
    missions: int,
    seconds: float,
    server_kills: int,
    fence: bool = True,
    seed: int = 0,
) -> Chaos:
    """Keep missions open and kill; then let all end, and judge them."""
    dice, chaos = random.Random(seed), Chaos()
    robots = tuple(
        tuple(f"r{process}-{number}" for number in range(_ROBOTS))
        for process in range(_ROBOT_PROCESSES)
    )
    with world_of(
        store,
        place,
        fence=fence,
        side=3.15,  # two rooms: 20 square metres
        robots=robots,
        lease_s=2.0,
        wake_after_s=2.0,
        robot_seen_s=6.0,
        call_timeout_s=10.0,
    ) as world:
        open_missions: dict[str, int] = {}
        began = time.monotonic()
        server_at = [began + seconds * (n + 1) / (server_kills + 1) for n in range(server_kills)]
        next_kill = began + 1.0
        asked: list[Any] = []
        while (now := time.monotonic()) < began + seconds + _END_S:
            over = now > began + seconds
            for saga_id in [s for s in open_missions if world.has_ended(s)]:
                del open_missions[saga_id]
            if over and not open_missions:
                break
            while not over and len(open_missions) < missions:
                saga_id = f"m{chaos.started}"
                mission_seed = failing_seed(chaos.started // 3 % 4) if chaos.started % 3 == 0 else 0
                open_missions[saga_id] = mission_seed
                asked.append(world.ask(saga_id, 2, mission_seed))
                chaos.started += 1
            if not over and server_at and now > server_at[0]:
                server_at.pop(0)
                store.kill()
                store.start()
                chaos.server_kills += 1
            if not over and now > next_kill:
                next_kill = now + dice.uniform(0.3, 1.5)
                _strike(world, dice, chaos)
            world.supervise()
            time.sleep(0.05)  # the next round of this simulation; it ends with `seconds`
        _judge(world, chaos)
    return chaos


def _strike(world: World, dice: random.Random, chaos: Chaos) -> None:
    """Kill a process, or stop it for longer than a lease."""
    name = dice.choice(["celery", "celery", "listener", "listener", *world.names()])
    process = world.running[name]
    if not process.is_alive:  # it ended by itself; its supervisor has not looked yet
        return
    if dice.random() < 0.3:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
        world.resume_later(process, dice.uniform(2.5, 4.0))
        chaos.stops += 1
    else:
        process.kill()
        chaos.kills += 1


def _judge(world: World, chaos: Chaos) -> None:
    faults = Faults()
    with world.client() as client:
        if pending := wait_quiet(client):
            faults.other.append(f"pending on {pending}")
        for number in range(chaos.started):
            saga_id = f"m{number}"
            # A mission may be undone for a robot that died: what fails is always undone.
            right = {"compensated"} if number % 3 == 0 else {"completed", "compensated"}
            judge_mission(client, saga_id, world.out_dir, right, faults)
            if world.has_ended(saga_id):
                done = (world.out_dir / saga_id).exists()
                chaos.completed += done
                chaos.compensated += not done
    chaos.unfinished, chaos.doubled = faults.unfinished, faults.doubled
    chaos.out_of_order, chaos.other = faults.out_of_order, faults.other


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--missions", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--server-kills", type=int, default=3)
    parser.add_argument("--without-fence", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with EmbeddedServer(aof=True) as store, tempfile.TemporaryDirectory() as place:
        chaos = run(
            store,
            Path(place),
            missions=asked.missions,
            seconds=asked.seconds,
            server_kills=asked.server_kills,
            fence=not asked.without_fence,
            seed=asked.seed,
        )
    wrong = {
        name: getattr(chaos, name) for name in ("unfinished", "doubled", "out_of_order", "other")
    }
    told = {name: value for name, value in vars(chaos).items() if name not in wrong}
    told |= {name: len(found) for name, found in wrong.items()}
    told["examples"] = {name: found[:5] for name, found in wrong.items() if found}
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    sys.exit(any(wrong.values()))


if __name__ == "__main__":
    main()
