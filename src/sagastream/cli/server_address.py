"""Where the commands find the server: `--url`, REDIS_URL, or the file that REDIS_URL_FILE names."""

import os
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from sagastream.cli.output import print_error
from sagastream.errors import InvalidMessage

DEFAULT = "redis://127.0.0.1:6379/0"
_MAX_BYTES = 64 * 1024


def server_url(given: str | None) -> str:
    """Return the URL of the server; at a terminal, warn of a password among the arguments.

    Args:
        given: The URL among the arguments, if there is one. It has precedence.

    Raises:
        InvalidMessage: Both variables are set, or the file cannot be read.
    """
    if given is not None:
        # For programs, standard error has one line at most: the error.
        if _has_password(given) and sys.stderr.isatty():
            print_error(
                "--url: every user of this machine can read the password in the arguments; "
                "give the URL in REDIS_URL, or a file in REDIS_URL_FILE"
            )
        return given
    url, path = os.environ.get("REDIS_URL", ""), os.environ.get("REDIS_URL_FILE", "")
    if url and path:
        raise InvalidMessage("REDIS_URL_FILE", "REDIS_URL is set, too; give one of them")
    return _first_line(Path(path)) if path else url or DEFAULT


def environment_with(url: str) -> dict[str, str]:
    """The environment of a child process that uses this server."""
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL_FILE"}
    return environment | {"REDIS_URL": url}


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(_MAX_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidMessage("REDIS_URL_FILE", f"cannot read {path}: {reason}") from None
    if not line:
        raise InvalidMessage("REDIS_URL_FILE", f"{path} is empty")
    return line


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "@" in url
    return ":" in parts.netloc.rpartition("@")[0] or "password" in parse_qs(parts.query)
