"""What a mission starts with: no waiting for what cannot be there, no import that nobody needs."""

import subprocess
import sys

import pytest

from app.celery_app import celery_app
from app.cli.workers import KINDS, missing_kinds
from app.config import get_settings
from app.redis_utils import get_bus
from sagastream import Bus

pytestmark = pytest.mark.blocking


async def test_nobody_is_asked_where_no_celery_worker_has_been(
    app_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ping waits for as long as it may, also when there is nobody to answer."""

    def ping(**_: object) -> list[object]:
        raise AssertionError("nobody is there")

    monkeypatch.setattr(celery_app.control, "ping", ping)

    assert await missing_kinds(get_settings()) == KINDS


@pytest.mark.parametrize("answers", [[], [{"worker": {"ok": "pong"}}]])
async def test_a_mailbox_may_be_one_that_was_left(
    app_bus: Bus, monkeypatch: pytest.MonkeyPatch, answers: list[object]
) -> None:
    """Where a worker has been, its answer tells whether it is there."""
    call = get_bus().command
    await call("SADD", app_bus.key("_kombu.binding.celery.pidbox"), "left")
    monkeypatch.setattr(celery_app.control, "ping", lambda **_: answers)

    assert ("celery" not in await missing_kinds(get_settings())) == bool(answers)


def test_a_process_of_robots_imports_nothing_that_plans() -> None:
    """SciPy's solvers are a good part of what would keep the first robot from moving."""
    heavy = ["scipy.optimize", "app.exploration.planning.coordinator", "celery", "kombu", "gtsam"]
    program = f"import app.robots.process, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert done.stdout.strip() == "[]", done.stderr
