"""Missions whose processes are users with the rights of their roles."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery

from app.broker import broker_url
from app.cli.workers import Workers
from app.config import choose_settings, get_settings
from app.mission_rights import ROLES, MissionRole, rules
from app.redis_utils import get_bus
from sagastream.cli.main import main
from sagastream.testing import EmbeddedServer
from tests.collector import free_port
from tests.integration.conftest import run
from tests.integration.served import Served
from tests.plain_client import connect
from tests.polling import eventually_sync

pytestmark = pytest.mark.blocking

_DATABASE = 2
# What clients do without: facts about all tenants, and the name of a client's library.
_OPTIONAL = {"info", "function|list", "client|setinfo"}
_FOREIGN = (
    *("GET {bank}:x", "LPUSH {bank}:celery x", "LPUSH celery x", "XADD {bank}:map:commands * a b"),
    *("PUBLISH {bank}:/2.celery.pidbox x", "PUBLISH /2.celery.pidbox x", "FLUSHALL", "KEYS *"),
    *("CONFIG GET *", "ACL LIST", "FUNCTION FLUSH", "SHUTDOWN", "EVAL return 0", "DEL {bank}:x"),
)
# Commands of the broker are for its keys only.
_OURS = ("LPUSH {shop}:listener:x 1", "SADD {shop}:fleet x", "EVALSHA 0 1 {shop}:fleet")


class Tenants:
    """A server with a user for each role, and what it has refused to them.

    Args:
        server: The server.
        port: Its port.
    """

    def __init__(self, server: EmbeddedServer, port: int) -> None:
        self._port = port
        self.admin: Any = connect(server.url)
        for role in ROLES:
            self._grant(role)

    def _grant(self, role: MissionRole) -> None:
        granted = rules(role, "shop", database=_DATABASE)
        self.admin.execute_command("ACL", "SETUSER", role, *granted, ">pw")

    def url(self, role: MissionRole) -> str:
        """The URL of a user."""
        return f"redis://{role}:pw@127.0.0.1:{self._port}/{_DATABASE}"

    def refused(self) -> set[tuple[str, str, str]]:
        """User, reason, and command or key."""
        log = self.admin.acl_log()
        found = {(entry["username"], entry["reason"], entry["object"]) for entry in log}
        return {each for each in found if each[2] not in _OPTIONAL}


@pytest.fixture
def tenants(server_binary: str | None) -> Iterator[Tenants]:
    """A server on which an administrator has installed the functions."""
    port = free_port()
    with EmbeddedServer(binary=server_binary, port=port) as server:
        assert main(["--url", server.url, "install"]) == 0
        yield Tenants(server, port)
    get_settings.cache_clear()


@contextmanager
def _mission_control(tenants: Tenants, maps: Path, out: Path) -> Iterator[dict[str, str]]:
    """Listener, robots and Celery, each with its own user; yields the environment of the page."""
    settings: dict[str, Any] = {
        "map_dir": maps,
        "out_dir": out,
        "fleet_size": 2,
        "namespace": "shop",
    }
    with ExitStack() as stack:
        started = []
        kinds: tuple[MissionRole, ...] = ("listener", "robots", "celery")
        for kind in kinds:
            chosen = choose_settings(redis_url=tenants.url(kind), **settings)
            started.append(stack.enter_context(Workers(chosen, {kind})))
        chosen = choose_settings(redis_url=tenants.url("page"), **settings)

        async def ready() -> None:
            async with get_bus():
                for workers in started:
                    await workers.ready()

        asyncio.run(ready())
        yield chosen.environment()


@pytest.mark.timeout(180)
def test_each_role_can_do_its_work(tenants: Tenants, maps: Path, tmp_path: Path) -> None:
    """The server refuses nothing that matters to a mission, to its page, or to an operator."""
    with _mission_control(tenants, maps, tmp_path) as env:
        with Served(env) as served, httpx.Client(base_url=served.url, timeout=30) as page:

            def ends(mission: str) -> str:
                status = page.get(f"/api/missions/{mission}").json()["status"]
                return "" if status in {"running", "compensating"} else str(status)

            def start(area: str) -> str:
                answer = page.post("/api/missions", json={"area": area, "robots": 2})
                assert answer.status_code == 202, answer.text
                return str(answer.json()["saga_id"])

            first = start("rooms")
            assert eventually_sync(lambda: ends(first), within_s=60, why="it ends") == "completed"
            assert "event: end" in page.get(f"/api/missions/{first}/events").text
            second = start("suite")
            holds = lambda: second in page.get("/api/fleet").text  # noqa: E731
            eventually_sync(holds, within_s=30, why="robots are held")
            for path in (
                *("/", "/fleet", "/parts/missions", "/parts/fleet", f"/missions/{second}"),
                *(f"/parts/missions/{second}/{part}" for part in ("steps", "trace", "deliveries")),
            ):
                assert page.get(path).status_code == 200
            released = page.post(
                "/api/fleet/robot-01/release", json={"mission": second, "reason": "broken"}
            )
            assert released.json() == {"released": ["robot-01"]}
            assert page.post(f"/api/missions/{second}/cancel", json={}).status_code == 202
            eventually_sync(lambda: ends(second), within_s=30, why="it is undone")
            for verb in ("resume", "compensate"):
                assert page.post(f"/api/missions/{second}/{verb}", json={}).status_code == 202
        as_operator = env | {"REDIS_URL": tenants.url("operator")}
        doctor = run("app.cli", "doctor", "-o", "json", env=as_operator)
        faults = [check for check in json.loads(doctor.out) if not check["ok"]]
        assert faults == []
        for verb in ("list", "fleet"):
            assert run("app.cli", verb, env=as_operator).code == 0
        for verb in ("show", "watch", "replay"):
            assert run("app.cli", verb, first, env=as_operator).code == 0
    assert tenants.refused() == set()


@pytest.mark.timeout(180)
def test_one_user_can_run_all_workers(tenants: Tenants, maps: Path, tmp_path: Path) -> None:
    """That of `mission workers`; `mission run` needs no other."""
    settings = {"MAP_DIR": str(maps), "OUT_DIR": str(tmp_path), "FLEET_SIZE": "2"}
    chosen = choose_settings(redis_url=tenants.url("workers"), namespace="shop")
    ended = run("app.cli", "run", "--area", "rooms", env=chosen.environment() | settings)
    assert ended.code == 0, ended.err
    assert tenants.refused() == set()


def test_celery_restores_the_task_of_a_dead_worker(tenants: Tenants) -> None:
    """With a transaction, a lock, and commands that it needs for nothing else."""
    choose_settings(redis_url=tenants.url("celery"), namespace="shop")
    options = {"global_keyprefix": "{shop}:", "visibility_timeout": 0}
    with Celery(broker=broker_url(get_settings().redis_url)) as celery:
        celery.conf.broker_transport_options = options
        celery.send_task("work")
        with celery.connection() as dead:
            queue = dead.SimpleQueue("celery")
            assert queue.get(timeout=5).headers["task"] == "work"
            dead.default_channel.qos.restore_visible(num=10)
            assert queue.get(timeout=5).headers["redelivered"]
    assert tenants.refused() == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_cannot_reach_more(tenants: Tenants, role: MissionRole) -> None:
    """Neither other tenants, nor other keys of the namespace with the commands of the broker."""
    with connect(tenants.url(role)) as client:
        for command in (*_FOREIGN, *_OURS):
            with pytest.raises(Exception, match=r"(?i)no permission|can't access|unknown command"):
                client.execute_command(*command.split())
