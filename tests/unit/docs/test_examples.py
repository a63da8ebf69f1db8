"""The examples: they are short, and run; the shop loses no order when its processes are stopped."""

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config import ROOT
from sagastream.testing import EmbeddedServer, child_options
from tests.polling import eventually

pytestmark = pytest.mark.blocking

SHOP = ROOT / "examples" / "shop"
ORDERS, STOCK, DECLINED_EACH = 80, 1000, 8
TABLES = """
CREATE TABLE done (step TEXT, id TEXT, PRIMARY KEY (step, id));
CREATE TABLE stock (sku TEXT PRIMARY KEY, count INTEGER CHECK (count >= 0));
"""


def test_the_shop_is_short() -> None:
    """Models, handlers, saga, web application and test together."""
    lines = sum(len(path.read_text().splitlines()) for path in SHOP.glob("*.py"))
    assert lines < 120


def test_the_tests_of_the_shop_pass(tmp_path: Path) -> None:
    """As a user runs them, in its folder."""
    options = ["-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(SHOP), *options],
        cwd=SHOP,
        env=_environment("", tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


class Shop:
    """The processes of the shop, and its database."""

    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        self._env = _environment(server.url, folder)
        self._url = server.url
        self._log = (folder / "log.txt").open("ab")
        self.database = folder / "shop.db"
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def log(self) -> str:
        """What its processes have written."""
        return Path(self._log.name).read_text()

    def start(self, name: str) -> None:
        """Start the web application or the handlers."""
        arguments = {
            "web": ["uvicorn", "web:app", "--port", str(self.port), "--log-level", "warning"],
            "handlers": ["sagastream.cli", "--url", self._url, "run", "shop"],
        }[name]
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=SHOP,
            env=self._env,
            stdout=self._log,
            stderr=self._log,
            **child_options(),
        )

    async def restart(self, name: str) -> int:
        """Stop one with SIGTERM, and start it anew; returns its exit code."""
        process = self.processes[name]
        process.send_signal(signal.SIGTERM)
        # Longer than handlers may go on, and than they wait for a lock of the database: 30 s each.
        code = await asyncio.to_thread(process.wait, 75)
        self.start(name)
        return code

    def close(self) -> None:
        """Stop what runs."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._log.close()

    def rows(self, query: str) -> list[Any]:
        """Read the database."""
        with closing(sqlite3.connect(self.database, timeout=30)) as database:
            return database.execute(query).fetchall()


def _environment(url: str, folder: Path) -> dict[str, str]:
    return os.environ | {
        "REDIS_URL": url,
        "SHOP_DATABASE": str(folder / "shop.db"),
        "PYTHONPATH": f"{SHOP}:{ROOT / 'src'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@asynccontextmanager
async def _running(server: EmbeddedServer, folder: Path) -> AsyncIterator[Shop]:
    shop = Shop(server, folder)
    try:
        shop.start("handlers")
        shop.start("web")
        with closing(sqlite3.connect(shop.database)) as database, database:
            database.executescript(TABLES)
            database.execute("INSERT INTO stock VALUES ('tea', ?)", [STOCK])
        yield shop
    finally:
        shop.close()


async def test_no_order_is_lost_when_processes_are_stopped_under_load(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    """SIGTERM to uvicorn, and to the handlers: each order ends, and is charged and sent once."""
    answers: dict[str, int] = {}
    asked: list[str] = []
    slots = asyncio.Semaphore(10)

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        card = "declined" if number % DECLINED_EACH == 0 else "4242"
        order = {"id": f"order-{number}", "sku": "tea", "count": 2, "card": card}
        async with slots:
            asked.append(order["id"])  # type: ignore[arg-type]
            await eventually(lambda: sent(client, order), within_s=60, why="it is answered")

    async def sent(client: httpx.AsyncClient, order: dict[str, Any]) -> bool:
        try:
            answer = await client.post("/orders", json=order)
        except httpx.TransportError:
            return False  # the web application is starting: ask again with the same id
        answers[order["id"]] = answer.status_code
        return True

    async with _running(own_server, tmp_path) as shop:
        url = f"http://127.0.0.1:{shop.port}"
        async with (
            httpx.AsyncClient(base_url=url, timeout=60) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(ORDERS):
                group.create_task(ask(client, number))
            for name, after in (("web", 15), ("handlers", 30), ("web", 50)):
                await eventually(
                    lambda after=after: len(answers) >= after,  # type: ignore[misc]
                    within_s=60,
                    why=f"{after} orders are answered",
                )
                assert await shop.restart(name) in {0, -signal.SIGTERM}, shop.log
        expected = {
            f"order-{number}": 409 if number % DECLINED_EACH == 0 else 200
            for number in range(ORDERS)
        }
        assert answers == expected, shop.log
        assert len(asked) == ORDERS
        done = shop.rows("SELECT step, count(*) FROM done GROUP BY step ORDER BY step")
        good = ORDERS - ORDERS // DECLINED_EACH
        assert done == [("charge", good), ("reserve", good), ("ship", good)]
        assert shop.rows("SELECT count FROM stock") == [(STOCK - 2 * good,)]
