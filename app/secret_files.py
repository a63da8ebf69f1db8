"""Secrets that are in files: their names, and how they are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The settings that may be in a file, which another one names with `_file`.
SECRETS = ("redis_url", "broker_url", "web_token")
_MAX_SECRET_BYTES = 64 * 1024


def read_secrets(given: Mapping[str, Any]) -> dict[str, str]:
    """Read the secrets that are in files.

    Args:
        given: The settings that were given, by name.

    Raises:
        ValueError: A secret was given twice, or its file cannot be read.
    """
    read = {}
    for name in SECRETS:
        path = given.get(f"{name}_file")
        if not path:
            continue
        if given.get(name):
            raise ValueError(f"{name.upper()} and {name.upper()}_FILE: give one of them")
        # A token is made where it is needed.
        if name != "web_token" or Path(path).exists():
            read[name] = _secret_in(Path(path), f"{name}_file".upper())
    return read


def _secret_in(path: Path, variable: str) -> str:
    """Return the first line of a file.

    Raises:
        ValueError: There is no such file, or nothing in it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            secret = file.readline(_MAX_SECRET_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"{variable}: cannot read {path}: {reason}") from None
    if not secret:
        raise ValueError(f"{variable}: {path} is empty")
    return secret
