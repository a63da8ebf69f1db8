"""The server of `mission dev`: where its data are, and how other commands find it while it runs."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from app.config import Settings, choose_settings
from app.exploration.map_files import write_atomically

# No mission's id begins with a dot.
_FOLDER, _ABOUT, _LOCK = ".dev", "about.json", "lock"


@dataclass(frozen=True, slots=True)
class DevServer:
    """A server that `mission dev` runs.

    Attributes:
        url: Its URL.
        map_dir: The folder of the maps that its workers know.
        out_dir: Where its workers write results.
        trace_file: Where its workers write spans; '' for nowhere.
        page: The URL of its page.
    """

    url: str
    map_dir: str
    out_dir: str
    trace_file: str
    page: str


def folder_of(settings: Settings) -> Path:
    """Where the data are."""
    return settings.data_dir.resolve() / _FOLDER


@contextmanager
def announced(settings: Settings) -> Iterator[None]:
    """Let other commands find the server of these settings while the context is open."""
    about = DevServer(
        settings.redis_url,
        str(settings.map_dir.resolve()),
        str(settings.out_dir.resolve()),
        str(settings.trace_file.resolve()) if settings.trace_file else "",
        f"http://{settings.web_host}:{settings.web_port}/",
    )
    path = folder_of(settings) / _ABOUT
    write_atomically(path, json.dumps(asdict(about)).encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_dev_server(settings: Settings) -> DevServer | None:
    """Return the server that a running `mission dev` has; None if none runs."""
    folder = folder_of(settings)
    with contextlib.suppress(OSError, ValueError, TypeError):
        if is_locked(folder):
            return DevServer(**json.loads((folder / _ABOUT).read_text()))
    return None


def use_dev_server(settings: Settings, *, same_folders: bool = False) -> Settings:
    """Use the server of a running `mission dev` unless REDIS_URL names another.

    Args:
        settings: The settings.
        same_folders: Whether its workers must have the MAP_DIR and OUT_DIR of these settings.
    """
    if "redis_url" in settings.model_fields_set:
        return settings
    found = running_dev_server(settings)
    if found is None:
        return settings
    folders = (str(settings.map_dir.resolve()), str(settings.out_dir.resolve()))
    if same_folders and folders != (found.map_dir, found.out_dir):
        return settings
    changes: dict[str, object] = {"redis_url": found.url}
    if found.trace_file and "trace_file" not in settings.model_fields_set:
        changes["trace_file"] = Path(found.trace_file)
    return choose_settings(**changes)


def page_of_dev_server(settings: Settings) -> str:
    """Return the URL of the page of a running `mission dev` whose server these settings use; else ''."""
    found = running_dev_server(settings)
    return found.page if found and found.url == settings.redis_url else ""


def is_locked(folder: Path) -> bool:
    """Whether a server runs on the data of a folder."""
    try:
        with (folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
