"""The commit before this one and this one, side by side, as requesters and listeners, under kills."""

import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

import sagastream
from sagastream.testing import EmbeddedServer
from tests.faults.report import Report

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(900)]

_ROOT = Path(__file__).parents[2]
_ROLES = Path(__file__).with_name("release_roles.py")
_LIBRARY = "src/sagastream"


def _git(*arguments: str) -> bytes:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `src` folder of the library before its last change, or of OTHER_RELEASE."""
    try:
        last = _git("log", "-1", "--format=%H", "--", _LIBRARY).decode().strip()
        archive = _git("archive", os.environ.get("OTHER_RELEASE") or f"{last}^", _LIBRARY)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the history of the library in git: {error}")
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder / "src"


class Fleet:
    """Processes of two releases.

    Attributes:
        kills: How many listeners were killed.
    """

    def __init__(self, store: EmbeddedServer, releases: list[Path]) -> None:
        self.kills = 0
        self._store = store
        self._releases = releases
        self._listeners: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, release: Path, role: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a process of one release."""
        return subprocess.Popen(
            [sys.executable, str(_ROLES), role, self._store.url, *arguments],
            env=os.environ | {"PYTHONPATH": str(release)},
        )

    def start_listeners(self) -> None:
        """Start the listener of each release that has none."""
        for release in self._releases:
            process = self._listeners.get(release)
            if process is None or process.poll() is not None:
                self._listeners[release] = self.start(release, "listener")

    def kill_one(self, rng: random.Random) -> None:
        """Kill a listener, and start another one of its release."""
        process = self._listeners[rng.choice(self._releases)]
        process.kill()
        process.wait()
        self.kills += 1
        self.start_listeners()

    def stop(self) -> None:
        """Kill all listeners."""
        for process in self._listeners.values():
            process.kill()
            process.wait()


@pytest.fixture
def fleet(store: EmbeddedServer, earlier: Path) -> Iterator[Fleet]:
    """A listener of each release."""
    made = Fleet(store, [earlier, Path(sagastream.__file__).parents[1]])
    made.start_listeners()
    yield made
    made.stop()


@pytest.mark.invariant(12)
def test_two_releases_serve_each_other(
    store: EmbeddedServer, report: Report, is_long: bool, earlier: Path, fleet: Fleet
) -> None:
    """Requesters of both releases, listeners of both, and kills: nothing lost, nothing doubled."""
    count = 400 if is_long else 50
    rng = random.Random(7)
    releases = {"old": earlier, "new": Path(sagastream.__file__).parents[1]}
    requesters = [
        fleet.start(release, "requester", name, str(count)) for name, release in releases.items()
    ]
    try:
        while any(process.poll() is None for process in requesters):
            fleet.kill_one(rng)
            time.sleep(rng.uniform(0.5, 2.0))  # a listener starts and takes some work meanwhile
        assert [process.returncode for process in requesters] == [0, 0]
    finally:
        for process in requesters:
            process.kill()
            process.wait()
    assert fleet.kills >= 2
    row = report.row("two releases side by side, listeners of both killed repeatedly")
    row.notes["kills"] = str(fleet.kills)
    row.check(store, *(f"{name}{number}" for name in releases for number in range(count)))
