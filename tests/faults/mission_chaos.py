"""Many missions at once while processes and the server are killed at random.

    python -m tests.faults.mission_chaos --missions 60 --seconds 300 --server-kills 3

Keeps this number of missions open for this time; a third of them fail at a step, and each has
two of 128 robots. `--without-fence` removes the library's checks of claims, as a control. Prints
one JSON object; exits with 1 if a mission did not end correctly.
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

from sagastream.testing import EmbeddedServer
from tests.faults.deployment import Deployment, run_deployment
from tests.faults.mission_handlers import failing_seed
from tests.faults.mission_invariants import MissionViolations, check_mission, check_pending

_ROBOT_PROCESSES = 8
_ROBOTS = 16
_TIMEOUT_S = 120.0


@dataclass
class ChaosResult:
    """The number of faults and missions, and the violations by kind."""

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
    folder: Path,
    *,
    missions: int,
    seconds: float,
    server_kills: int,
    fence: bool = True,
    seed: int = 0,
) -> ChaosResult:
    """Keep missions open while processes are killed; then let all end, and check them.

    Args:
        store: The server.
        folder: For maps and results.
        missions: The number of open missions.
        seconds: How long faults are injected and missions are started.
        server_kills: How often the server is killed in that time.
        fence: Whether the library has its checks of claims and outcomes.
        seed: Of the random faults.
    """
    rng, result = random.Random(seed), ChaosResult()
    robots = tuple(
        tuple(f"r{process}-{number}" for number in range(_ROBOTS))
        for process in range(_ROBOT_PROCESSES)
    )
    with run_deployment(
        store,
        folder,
        fence=fence,
        side=3.15,  # two rooms: 20 square metres
        robots=robots,
        lease_s=2.0,
        wake_after_s=2.0,
        robot_seen_s=6.0,
        call_timeout_s=10.0,
    ) as deployment:
        open_missions: set[str] = set()
        began = time.monotonic()
        server_at = [began + seconds * (n + 1) / (server_kills + 1) for n in range(server_kills)]
        next_kill = began + 1.0

        while (now := time.monotonic()) < began + seconds + _TIMEOUT_S:
            over = now > began + seconds
            for saga_id in [s for s in open_missions if deployment.has_ended(s)]:
                open_missions.remove(saga_id)
            if over and not open_missions:
                break
            while not over and len(open_missions) < missions:
                saga_id = f"m{result.started}"
                mission_seed = (
                    failing_seed(result.started // 3 % 4) if result.started % 3 == 0 else 0
                )
                open_missions.add(saga_id)
                deployment.start_mission(saga_id, 2, mission_seed)
                result.started += 1
            if not over and server_at and now > server_at[0]:
                server_at.pop(0)
                store.kill()
                store.start()
                result.server_kills += 1
            if not over and now > next_kill:
                next_kill = now + rng.uniform(0.3, 1.5)
                _inject_fault(deployment, rng, result)
            deployment.supervise()
            time.sleep(0.05)  # the interval between two rounds of faults
        _check_missions(deployment, result)
    return result


def _inject_fault(deployment: Deployment, rng: random.Random, result: ChaosResult) -> None:
    """Kill a process, or suspend it for longer than a lease."""
    name = rng.choice(["celery", "celery", "listener", "listener", *deployment.names()])
    process = deployment.running[name]
    if not process.is_alive:  # it ended by itself, and is not started again yet
        return
    if rng.random() < 0.3:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
        deployment.resume_later(process, rng.uniform(2.5, 4.0))
        result.stops += 1
    else:
        process.kill()
        result.kills += 1


def _check_missions(deployment: Deployment, result: ChaosResult) -> None:
    violations = MissionViolations()
    with deployment.client() as client:
        check_pending(client, violations)
        for number in range(result.started):
            saga_id = f"m{number}"
            # A mission may also be compensated because a robot died.
            expected = {"compensated"} if number % 3 == 0 else {"completed", "compensated"}
            check_mission(client, saga_id, deployment.out_dir, expected, violations)
            if deployment.has_ended(saga_id):
                done = (deployment.out_dir / saga_id).exists()
                result.completed += done
                result.compensated += not done
    result.unfinished, result.doubled = violations.unfinished, violations.doubled
    result.out_of_order, result.other = violations.out_of_order, violations.other


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--missions", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--server-kills", type=int, default=3)
    parser.add_argument("--without-fence", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with EmbeddedServer(aof=True, fsync="always") as store, tempfile.TemporaryDirectory() as folder:
        result = run(
            store,
            Path(folder),
            missions=arguments.missions,
            seconds=arguments.seconds,
            server_kills=arguments.server_kills,
            fence=not arguments.without_fence,
            seed=arguments.seed,
        )
    violations = {
        name: getattr(result, name) for name in ("unfinished", "doubled", "out_of_order", "other")
    }
    facts = {name: value for name, value in vars(result).items() if name not in violations}
    facts |= {name: len(found) for name, found in violations.items()}
    facts["examples"] = {name: found[:5] for name, found in violations.items() if found}
    sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    sys.exit(any(violations.values()))


if __name__ == "__main__":
    main()
