"""Missions of `mission run` without REDIS_URL: the data of each server stay in a folder of DATA_DIR.

Later commands find a mission there by its id. They use its server while it runs, else they start
one on its folder for as long as they read. Missions are isolated: one that was killed holds no
robots of the next.
"""

import contextlib
import json
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.cli.base import EXIT_ERROR, leave, run_or_exit
from app.cli.dev_server import announced, folder_of, is_locked
from app.config import choose_settings, get_settings
from app.exploration.map_files import write_atomically
from app.missions.mission_ids import full_id, match_id
from app.missions.mission_saga import mission_runner
from app.missions.reports import summary_of
from app.redis_utils import get_bus
from app.shutdown import kill_groups, shutdown
from sagastream.errors import NoSuchSaga, SagaError
from sagastream.saga import Journal
from sagastream.testing import EmbeddedServer

_URL, _SUMMARY = "url", "summary.json"
_PROBE_S = 0.3
# How long a command waits for another one that reads the same folder.
_TURN_S = 10.0
_RETRY_S = 0.05


@contextmanager
def new_server(saga_id: str) -> Iterator[str]:
    """Run a server for a new mission and keep its data; yield its URL.

    It is killed if the command ends by force. If DATA_DIR cannot be written, a line says that the
    mission is not kept.
    """
    folder: Path | None = get_settings().data_dir.resolve() / saga_id
    assert folder is not None
    try:
        _drop_expired()
        folder.mkdir(parents=True)
    except OSError as error:
        print(
            f"mission: DATA_DIR: cannot write {error.filename}: {error.strerror}; this mission is "
            "not found by later commands",
            file=sys.stderr,
        )
        folder = None
    with _running(folder) as url:
        if folder:
            (folder / _URL).write_text(url)
        try:
            yield url
        finally:
            if folder:
                (folder / _URL).unlink(missing_ok=True)


@contextmanager
def server_of(given: str, *, changes: bool = False) -> Iterator[str]:
    """Use the server of a mission: that of REDIS_URL, else the one of its `mission run`.

    An error ends the command.

    Args:
        given: The mission's id, or its unique beginning.
        changes: Whether the mission must still run.

    Yields:
        The whole id.
    """
    folder = None
    if not _is_server_named():
        try:
            found = match_id(given, (each.name for each in _folders()))
        except SagaError as error:
            leave(EXIT_ERROR, str(error))
        folder = get_settings().data_dir / found if found else None
        if folder is None and not changes and _has_dev_data():
            with _serving(folder_of(get_settings())):
                yield run_or_exit(_full_id(given))
            return
    if folder is None:
        yield run_or_exit(_full_id(given))
        return
    if changes and not is_locked(folder) and not _has_ended(folder):
        leave(
            EXIT_ERROR,
            f"the server and the workers of mission {folder.name} have ended with their "
            "`mission run`; nothing was done",
        )
    with _serving(folder):
        yield folder.name


@contextmanager
def kept_data(given: str) -> Iterator[None]:
    """Use the server of a mission, or of what `mission dev` has left, if none is named or answers.

    An error ends the command.

    Args:
        given: The id of a mission, or its unique beginning; '' for any.
    """
    with contextlib.ExitStack() as stack:
        if given:
            stack.enter_context(server_of(given))
        elif not _is_server_named() and _has_dev_data() and not _answers():
            url = stack.enter_context(kept_server(folder_of(get_settings())))
            stack.enter_context(announced(choose_settings(redis_url=url)))
        yield


def all_summaries() -> list[dict[str, Any]]:
    """Return the summaries of all missions that can be found, newest first; an error ends the command."""
    named, folders = _is_server_named(), _folders()
    found: list[dict[str, Any]] = []
    if named or not (folders or _has_dev_data()) or _answers():
        found += run_or_exit(_summaries())
    if not named:
        found += [summary for folder in folders if (summary := _summary(folder))]
    if not named and _has_dev_data():
        with _serving(folder_of(get_settings())):
            found += [
                each | ({} if _is_over(each) else {"status": "interrupted"})
                for each in run_or_exit(_summaries())
            ]
    return sorted(found, key=lambda one: one["started"] or 0, reverse=True)


def _has_ended(folder: Path) -> bool:
    summary = _summary(folder)
    return summary is not None and summary["status"] in {"completed", "compensated"}


def _is_over(summary: dict[str, Any]) -> bool:
    return summary["status"] not in {"running", "compensating"}


def _has_dev_data() -> bool:
    """Whether a `mission dev` that no longer runs has left missions."""
    return folder_of(get_settings()).is_dir()


def _is_server_named() -> bool:
    return "redis_url" in get_settings().model_fields_set


def _answers() -> bool:
    """Return whether something listens at the default REDIS_URL."""
    url = urlsplit(get_settings().redis_url)
    with contextlib.suppress(OSError), socket.create_connection((url.hostname, url.port), _PROBE_S):
        return True
    return False


def _folders() -> list[Path]:
    folder = get_settings().data_dir
    if not folder.is_dir():
        return []
    return [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]


async def _full_id(given: str) -> str:
    async with get_bus():
        return await full_id(given)


async def _summaries() -> list[dict[str, Any]]:
    async with get_bus() as bus:
        await bus.ping()
        return [summary_of(journal) for journal in await mission_runner().journals()]


async def _journal(saga_id: str) -> Journal | None:
    async with get_bus():
        with contextlib.suppress(NoSuchSaga):
            return await mission_runner().journal(saga_id)
    return None


def _summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a kept mission; None if it never started or has expired."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        stored: dict[str, Any] = json.loads((folder / _SUMMARY).read_text())
        return stored | {"age_s": round(time.time() - stored["started"], 1)}
    with _serving(folder) as runs:
        journal = run_or_exit(_journal(folder.name))
    if journal is None:
        return None
    summary = summary_of(journal)
    if not runs and not journal.is_over:
        summary["status"] = "interrupted"
    if not runs:
        with contextlib.suppress(OSError):  # it is read again next time
            write_atomically(folder / _SUMMARY, json.dumps(summary).encode())
    return summary


@contextmanager
def _serving(folder: Path) -> Iterator[bool]:
    """Choose the server of a folder, or start one on it; yield whether its `mission run` runs."""
    before = get_settings()
    deadline = time.monotonic() + _TURN_S
    with contextlib.ExitStack() as stack:
        while not (runs := bool(url := _url_in_use(folder))):
            try:
                url = stack.enter_context(_running(folder))
                (folder / _URL).unlink(missing_ok=True)  # of a `mission run` that was killed
                break
            except RuntimeError as error:  # another command reads this folder
                if time.monotonic() > deadline:
                    leave(EXIT_ERROR, str(error))
                time.sleep(_RETRY_S)  # the lock of another process has no event
            except OSError as error:
                leave(EXIT_ERROR, f"DATA_DIR: cannot read {folder}: {error.strerror}")
        choose_settings(redis_url=url)
        try:
            yield runs
        finally:
            choose_settings(redis_url=before.redis_url)


def _url_in_use(folder: Path) -> str | None:
    """Return the URL of the server of a running `mission run`."""
    with contextlib.suppress(OSError):
        if is_locked(folder):
            return (folder / _URL).read_text()
    return None


@contextmanager
def kept_server(folder: Path) -> Iterator[str]:
    """Run a server on the data of a folder, which is made if it is missing; yield its URL.

    An error ends the command.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            url = stack.enter_context(_running(folder))
        except RuntimeError as error:  # another command runs a server there
            leave(EXIT_ERROR, str(error))
        except OSError as error:
            leave(EXIT_ERROR, f"DATA_DIR: cannot use {folder}: {error.strerror}")
        yield url


@contextmanager
def _running(folder: Path | None) -> Iterator[str]:
    server = EmbeddedServer(aof=folder is not None, folder=folder)

    def kill() -> None:
        if server.is_running:
            kill_groups([server.pid])
        shutil.rmtree(Path(urlsplit(server.url).path).parent, ignore_errors=True)

    with shutdown.killing(kill), server:
        yield server.url


def _drop_expired() -> None:
    """Delete folders whose missions have expired on their servers."""
    oldest = time.time() - get_settings().retention_s
    for folder in _folders():
        if folder.stat().st_mtime < oldest and not is_locked(folder):
            shutil.rmtree(folder, ignore_errors=True)
