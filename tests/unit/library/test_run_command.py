"""`sagastream run` and `sagastream dev`: real processes, their signals, probes and restarts."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from sagastream import Bus
from sagastream.cli.main import main
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer, child_options
from tests.polling import eventually, eventually_sync

pytestmark = pytest.mark.blocking

STREAM = "shop:commands"
HANDLERS = """
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from sagastream import Command, Lifespan, Progress, multi_stage_reply
from sagastream.saga import Saga, Step

@asynccontextmanager
async def lifespan() -> AsyncIterator[str]:
    yield "opened"
    print("closed", flush=True)

async def mark(command, call_next):
    return {**await call_next(command), "marked": True}

middleware = [mark]

@multi_stage_reply(stream="shop:commands", event_type="shop:order")
async def order(command: Command, value: Annotated[str, Lifespan]) -> dict:
    loop = type(asyncio.get_running_loop()).__module__
    return {"version": 1, "value": value, "loop": loop}

@multi_stage_reply(stream="shop:commands", event_type="shop:slow")
async def slow(progress: Progress) -> dict:
    await progress(0.5)
    await asyncio.sleep(1.0)
    return {}

saga = Saga("order", (Step("one", "shop:commands", "shop:order", lambda given, _: given),))
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a package of handlers."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "handlers.py").write_text(HANDLERS)
    return tmp_path


class Program:
    """A `sagastream` in a folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._log = (folder / "log.txt").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sagastream.cli", *arguments],
            cwd=folder,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            **child_options(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        """What it has written."""
        return Path(self._log.name).read_text()

    @property
    def children(self) -> list[int]:
        """The ids of its child processes."""
        own = self._process.pid
        return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has written a text."""
        eventually_sync(
            lambda: self.log.count(text) >= times or self._process.poll() is not None,
            within_s=15,
            why=f"{text} is in its log",
        )
        assert self.log.count(text) >= times, self.log

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        return self._process.wait(20)


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is free."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        number: int = found.getsockname()[1]
    return number  # type: ignore[return-value]


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def _ask(url: str, event_type: str = "shop:order", **options: Any) -> dict[str, Any]:
    async with Bus(url) as bus:
        reply = await bus.request_and_reply(STREAM, event_type, {}, 15, **options)
    payload: dict[str, Any] = reply["payload"]
    return payload


def test_handlers_run_with_probes_and_stop_gracefully(
    shop: Path, own_server: EmbeddedServer, port: int
) -> None:
    """SIGTERM lets a running handler finish; lifespan, middleware and sagas of the module count."""
    arguments = ["--url", own_server.url, "run", "shop.handlers", "--health-port", str(port)]
    with Program(shop, *arguments, "--concurrency", "4") as program:
        program.wait_for("listening")
        answer = asyncio.run(_ask(own_server.url))
        assert answer["value"] == "opened"
        assert answer["marked"] is True
        assert answer["loop"].startswith("uvloop")
        assert _get(port, "/healthz") == (200, "ok\n")
        assert _get(port, "/readyz") == (200, "ok\n")
        assert _get(port, "/other")[0] == 404
        assert asyncio.run(_drive(own_server.url)) == "completed"
        program.wait_for("shop.handlers.order: shop:order on shop:commands")
        reply = asyncio.run(_stop_while_it_runs(own_server.url, program))
        assert reply["status"] == "completed"
        assert program.end() == 0
        assert "closed" in program.log
        assert "[request_id=" in program.log, "ids are in the plain log"


async def _drive(url: str) -> str:
    async with Bus(url) as bus:
        step = Step("one", STREAM, "shop:order", lambda given, _results: given)
        runner = SagaRunner(bus, Saga("order", (step,)))
        return (await runner.wait(await runner.start({}))).status


async def _stop_while_it_runs(url: str, program: Program) -> dict[str, Any]:
    begun = asyncio.Event()
    async with Bus(url) as bus:
        asking = asyncio.create_task(
            bus.request_and_reply(
                *(STREAM, "shop:slow", {}, 15), on_progress=lambda _stage: begun.set()
            )
        )
        await begun.wait()
        program.signal(signal.SIGTERM)
        return await asking


def test_a_web_application_in_the_package_keeps_its_lifespan(
    shop: Path, own_server: EmbeddedServer
) -> None:
    """Modules without handlers add none, and a module may be called `middleware`."""
    (shop / "shop" / "middleware.py").write_text("")
    (shop / "shop" / "__main__.py").write_text("raise SystemExit('not me either')")
    (shop / "shop" / "web.py").write_text(
        "from shop.handlers import order\nasync def lifespan(app): raise SystemExit('not me')\n"
    )
    with Program(shop, "--url", own_server.url, "run", "shop") as program:
        program.wait_for("listening")
        answer = asyncio.run(_ask(own_server.url))
        assert (answer["value"], answer["marked"]) == ("opened", True)
        assert program.log.count("shop.handlers.order: shop:order") == 1


def test_readyz_says_that_the_server_is_away(
    shop: Path, own_server: EmbeddedServer, port: int
) -> None:
    """It is 503 with the reason, and /healthz stays 200."""
    arguments = ["--url", own_server.url, "run", "shop.handlers", "--health-port", str(port)]
    with Program(shop, *arguments) as program:
        program.wait_for("listening")
        own_server.stop()
        eventually_sync(
            lambda: _get(port, "/readyz")[0] == 503, within_s=15, why="the server is away"
        )
        assert "no answer" in _get(port, "/readyz")[1]
        assert _get(port, "/healthz")[0] == 200
        own_server.start()
        program.signal(signal.SIGINT)
        assert program.end() == 0


WRONG: dict[str, tuple[list[str], str, str]] = {
    "no module": (["run", "shop.nothing"], "", "No module named 'shop.nothing'"),
    "no handler": (["run", "shop.empty"], "", "no handler and no saga"),
    "a bad handler": (["run", "shop.bad"], "", "cannot be a payload"),
    "no server": (["run", "shop.handlers"], "redis://127.0.0.1:1/0", "no answer from"),
    "no middleware": (["run", "shop.third"], "", "shop.third.middleware must be a list"),
    "two lifespans": (["run", "shop.handlers", "shop.second"], "", "another module has one, too"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_run_says_so_in_one_line(shop: Path, server: EmbeddedServer, name: str) -> None:
    """With exit code 1, and without a traceback or a log line before it."""
    (shop / "shop" / "empty.py").write_text("")
    (shop / "shop" / "second.py").write_text("def lifespan(): ...\n")
    (shop / "shop" / "third.py").write_text(f"{HANDLERS}\nmiddleware = mark\n")
    (shop / "shop" / "bad.py").write_text(
        "from sagastream import multi_stage_reply\n"
        "@multi_stage_reply(stream='a:b', event_type='a:b')\n"
        "async def bad(number: int) -> None: ...\n"
    )
    arguments, url, reason = WRONG[name]
    with Program(shop, "--url", url or server.url, *arguments) as program:
        assert program.end() == 1
        lines = program.log.splitlines()
    assert reason in lines[-1]
    assert lines[-1].startswith("sagastream: ")
    assert len(lines) <= 2, lines
    assert "Traceback" not in "".join(lines)


def test_a_port_in_use_is_named(shop: Path, server: EmbeddedServer) -> None:
    """Of the probes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["--url", server.url, "run", "shop.handlers", "--health-port", port]
        with Program(shop, *arguments) as program:
            assert program.end() == 1
            assert f"the probes cannot be served at 127.0.0.1:{port}" in program.log


@pytest.mark.parametrize("option", ["--concurrency=0", "--health-port=x", "--drain=-1"])
def test_wrong_options(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They end with 2."""
    with pytest.raises(SystemExit) as ended:
        main(["run", "shop.handlers", option])
    assert ended.value.code == 2
    assert "is not a" in capsys.readouterr().err


def test_dev_keeps_its_data_and_restarts_handlers(shop: Path, port: int) -> None:
    """A changed file has effect; the next start has the results of the one before."""
    url = f"redis://127.0.0.1:{port}/0"
    with Program(shop, "dev", "shop.handlers", "--port", str(port)) as program:
        program.wait_for("listening")
        assert asyncio.run(_ask(url, request_id="r"))["version"] == 1
        program.wait_for("/ is ready")
        page = re.search(r"(http://127\.0\.0\.1:\d+)/ is ready", program.log)
        assert page is not None
        assert "shop:commands" in httpx.get(f"{page[1]}/", timeout=10).text
        changed = HANDLERS.replace('"version": 1', '"version": 2')
        (shop / "shop" / "handlers.py").write_text(changed)
        program.wait_for("a file has changed: restarting")
        program.wait_for("listening", times=2)
        assert asyncio.run(_ask(url))["version"] == 2
        (shop / "shop" / "handlers.py").write_text("broken(")
        program.wait_for("SyntaxError")
        (shop / "shop" / "handlers.py").write_text(changed)
        program.wait_for("listening", times=3)
        with Program(
            shop / "shop", "dev", "--port", "0", "--data", str(shop / ".sagastream")
        ) as other:
            assert other.end() == 1
            assert "another server uses the folder" in other.log
        program.signal(signal.SIGINT)
        assert program.end() == 0
    with Program(shop, "dev", "--port", str(port), "--no-reload") as program:
        program.wait_for("a server runs at")
        assert asyncio.run(_outcome(url)) == 1
        with Program(shop / "shop", "dev", "--port", str(port)) as other:
            assert other.end() == 1
            assert f"port {port} is in use" in other.log


def test_handlers_die_with_the_program_that_restarts_them(
    shop: Path, own_server: EmbeddedServer
) -> None:
    """Also when it is killed: nothing is left that works for nobody."""
    with Program(shop, "--url", own_server.url, "run", "shop.handlers", "--reload") as program:
        program.wait_for("listening")
        (child,) = program.children
        program.signal(signal.SIGKILL)
        program.end()
        eventually_sync(
            lambda: not Path(f"/proc/{child}").exists(), within_s=10, why="the handlers have died"
        )


async def _outcome(url: str) -> Any:
    async with Bus(url) as bus:
        outcome = await eventually(lambda: bus.outcome("r"), within_s=10, why="it is kept")
    return outcome["payload"]["version"]
