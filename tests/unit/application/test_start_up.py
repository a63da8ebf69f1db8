"""Start-up of a mission: no needless waiting, no needless imports."""

import subprocess
import sys

import pytest

from app.celery_app import celery_app
from app.cli.workers import KINDS, missing_kinds
from app.config import get_settings
from app.redis_utils import get_bus
from sagastream import Bus

pytestmark = pytest.mark.blocking


async def test_celery_is_not_pinged_without_a_mailbox(
    app_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a mailbox there is no ping, which would block for its whole timeout."""

    def ping(**_: object) -> list[object]:
        raise AssertionError("pinged without a mailbox")

    monkeypatch.setattr(celery_app.control, "ping", ping)

    assert await missing_kinds(get_settings()) == KINDS


@pytest.mark.parametrize("answers", [[], [{"worker": {"ok": "pong"}}]])
async def test_a_mailbox_may_be_left_by_a_dead_worker(
    app_bus: Bus, monkeypatch: pytest.MonkeyPatch, answers: list[object]
) -> None:
    """With a mailbox, the ping decides whether a worker runs."""
    call = get_bus().command
    await call("SADD", app_bus.key("_kombu.binding.celery.pidbox"), "left")
    monkeypatch.setattr(celery_app.control, "ping", lambda **_: answers)

    assert ("celery" not in await missing_kinds(get_settings())) == bool(answers)


def test_a_robot_process_imports_no_planner() -> None:
    """SciPy's solvers would delay the start of robot processes."""
    heavy = ["scipy.optimize", "app.exploration.planning.team_planner", "celery", "kombu", "gtsam"]
    program = f"import app.robots.process, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert done.stdout.strip() == "[]", done.stderr


def test_a_robot_compiles_nothing_after_its_deployment() -> None:
    """A robot with unknown poses drives, closes loops and is recalled with what was compiled then."""
    program = """
import sys
from numba.core.dispatcher import Dispatcher
from app.exploration.driver import Pose
from app.exploration.simulation.deployment import deploy_slam_robot
from app.exploration.simulation.floor_plans import draw_rooms
from app.robots.process import warm_up

def compiled():
    modules = [m for name, m in sys.modules.items() if name.startswith("app.exploration")]
    jitted = {f for m in modules for f in vars(m).values() if isinstance(f, Dispatcher)}
    return {(f.py_func.__qualname__, str(s)) for f in jitted for s in f.signatures}

warm_up()
robot = deploy_slam_robot(draw_rooms(1), slot=0, robots=1, seed=0)
robot.deploy(Pose(0.0, 0.0))
before = compiled()
for lap in range(1, 9):
    robot.drive([(-1.0, 0.0), (0.0, 0.0)], 20.0 * lap)
robot.recall()
print(len(robot.slam.keyframes) > 25, sorted(compiled() - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert done.stdout.strip() == "True []", done.stderr
