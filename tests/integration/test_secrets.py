"""Passwords appear in no argument, output, log or span of any command."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from app.config import ROOT
from sagastream.testing import EmbeddedServer, child_options
from tests.collector import free_port
from tests.integration.conftest import environment
from tests.plain_client import connect
from tests.polling import eventually_sync

pytestmark = pytest.mark.blocking

# Each of its characters means something to a parser of URLs, or to Celery.
_PASSWORD = "pa;55/w%6frd#?[x]"  # noqa: S105 - of a server of this test
_WRONG = "wr0ng;5ecret"
_MISSION = ("-m", "app.cli")
_SAGASTREAM = ("-m", "sagastream.cli", "--namespace", "shop")
_QUICK: tuple[tuple[str, ...], ...] = (
    (*_SAGASTREAM, "install"),
    (*_SAGASTREAM, "memory"),
    (*_SAGASTREAM, "purge"),
    (*_SAGASTREAM, "dead", "list", "map:commands"),
    (*_SAGASTREAM, "acl", "requester"),
    (*_MISSION, "doctor"),
    (*_MISSION, "list"),
    (*_MISSION, "fleet"),
    (*_MISSION, "show", "nobody"),
    (*_MISSION, "trace", "nobody"),
    ("-m", "celery", "--app", "app.celery_app", "report"),
)
_CELERY = ("-m", "celery", "--app", "app.celery_app", "worker", "--pool", "solo")
_REFUSED: tuple[tuple[str, ...], ...] = (
    (*_SAGASTREAM, "memory"),
    (*_MISSION, "doctor"),
    (*_MISSION, "list"),
    (*_MISSION, "workers"),
    (*_MISSION, "serve", "--port", "0"),
    ("-m", "app.orchestrator", "--area", "rooms"),
    ("-m", "app.command_listener"),
    ("-m", "app.robots.process", "r1"),
)


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedServer]:
    """A server that only one user may use."""
    port = free_port()
    with EmbeddedServer(port=port) as server:
        with connect(server.url) as client:
            client.acl_setuser(
                "ops",
                enabled=True,
                passwords=[f"+{_PASSWORD}"],
                keys=["*"],
                channels=["*"],
                categories=["+@all"],
            )
            client.acl_setuser("default", enabled=False)
        server.tcp = f"127.0.0.1:{port}"  # type: ignore[attr-defined]
        yield server


def _url(server: EmbeddedServer, scheme: str, password: str = _PASSWORD) -> str:
    user = f"ops:{quote(password, safe='')}@"
    if scheme == "unix":
        return server.url.replace("://", f"://{user}", 1)
    return f"redis://{user}{server.tcp}/0"  # type: ignore[attr-defined]


class Watched:
    """Runs programs, and looks for a password in all that can be seen of them.

    Args:
        folder: For their outputs and spans.
        secret: The password.
        env: Their environment.
    """

    def __init__(self, folder: Path, secret: str, env: dict[str, str]) -> None:
        self._folder = folder
        self._secrets = {secret.encode(), quote(secret, safe="").encode()}
        self._env = env | {
            "TRACE_FILE": str(folder / "spans.jsonl"),
            "LOG_LEVEL": "DEBUG",
            "OUT_DIR": str(folder / "out"),
            "MAP_DIR": str(folder),
        }
        self._count = 0

    def run(
        self, *arguments: str, timeout_s: float = 60, until: str = ""
    ) -> tuple[int | None, str]:
        """Run a program to its end, or until its output has a text; return its code and output."""
        self._count += 1
        path = self._folder / f"{self._count}.out"
        with path.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                **child_options(),
            )
        try:
            eventually_sync(
                lambda: process.poll() is not None or (until and until in path.read_text()),
                within_s=timeout_s,
                why=f"{arguments} ends",
                meanwhile=self.look_at_arguments,
            )
        finally:
            process.terminate()
            process.wait()
        return process.returncode, path.read_text(errors="replace")

    def look_at_arguments(self) -> None:
        """Look at the arguments of all processes of this machine."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self._look(path.read_bytes(), str(path))
            except OSError:
                continue

    def look_at_files(self) -> None:
        """Look at the outputs, and at the spans."""
        for path in self._folder.rglob("*"):
            if path.is_file():
                self._look(path.read_bytes(), str(path))

    def _look(self, found: bytes, where: str) -> None:
        for secret in self._secrets:
            assert secret not in found, f"a password in {where}"


@pytest.mark.parametrize("is_file", [pytest.param(False, marks=pytest.mark.long), True])
def test_commands_show_no_password(guarded: EmbeddedServer, tmp_path: Path, is_file: bool) -> None:
    """They work with a URL from the environment, or from a file."""
    url, secret_file = _url(guarded, "unix" if is_file else "tcp"), tmp_path.parent / "url"
    secret_file.write_text(f"{url}\n")
    given = {"REDIS_URL_FILE": str(secret_file)} if is_file else {"REDIS_URL": url}
    watched = Watched(tmp_path, _PASSWORD, environment(NAMESPACE="shop") | given)
    for arguments in _QUICK:
        code, out = watched.run(*arguments)
        assert code in {0, 1}, out
        assert "Traceback" not in out
        for word in ("WRONGPASS", "NOAUTH", "lost "):
            assert word not in out
    assert "celery@" in watched.run(*_CELERY, until=" ready.")[1]
    handlers = ("run", "--reload", "app.command_handlers.handlers")
    assert "map:integrate" in watched.run(*_SAGASTREAM, *handlers, until="map:integrate on")[1]
    watched.look_at_files()


def test_a_wrong_password_is_not_shown(guarded: EmbeddedServer, tmp_path: Path, maps: Path) -> None:
    """Each process says that it is refused."""
    shutil.copytree(maps, tmp_path, dirs_exist_ok=True)
    url = _url(guarded, "tcp", _WRONG)
    watched = Watched(tmp_path, _WRONG, environment(REDIS_URL=url))
    refused = "invalid username-password pair"
    assert refused in watched.run(*_CELERY, until=refused)[1]
    for arguments in _REFUSED:
        code, out = watched.run(*arguments)
        assert code == 1, out
        assert "WRONGPASS" in out
    watched.look_at_files()


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
@pytest.mark.timeout(180)
def test_a_mission_shows_no_password(
    guarded: EmbeddedServer, tmp_path: Path, maps: Path, scheme: str
) -> None:
    """All of its workers, Celery included, log in; none has the password in its arguments."""
    shutil.copytree(maps, tmp_path, dirs_exist_ok=True)
    env = environment(REDIS_URL=_url(guarded, scheme), NAMESPACE=scheme, FLEET_SIZE="2")
    watched = Watched(tmp_path, _PASSWORD, env)
    code, out = watched.run(*_MISSION, "run", "--area", "rooms", timeout_s=150)
    assert code == 0, out
    watched.look_at_files()
    assert "server.address" in (tmp_path / "spans.jsonl").read_text()
