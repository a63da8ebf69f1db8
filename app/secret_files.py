"""Secrets in files, such as those of Docker and of systemd: NAME_FILE names the file of NAME.

The first line of the file counts. What is wrong is said without the secret.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The settings that can be in a file.
SECRETS = ("redis_url", "broker_url", "vda5050_broker_url", "web_token")
_MAX_BYTES = 64 * 1024


def read_secrets(given: Mapping[str, Any]) -> dict[str, str]:
    """Read the secrets whose files are named.

    Args:
        given: The settings that are given, by name.

    Returns:
        The secrets by the names of their settings. A token that has no file yet is left out: it
        is made where it is needed.

    Raises:
        ValueError: A file cannot be read, or the setting is given, too; names the variable.
    """
    read = {}
    for name in SECRETS:
        path = given.get(f"{name}_file")
        if not path:
            continue
        if given.get(name):
            raise ValueError(f"{name.upper()} and {name.upper()}_FILE: give one of them")
        if name != "web_token" or Path(path).exists():
            read[name] = _first_line(Path(path), f"{name}_file".upper())
    return read


def _first_line(path: Path, variable: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            secret = file.readline(_MAX_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"{variable}: cannot read {path}: {reason}") from None
    if not secret:
        raise ValueError(f"{variable}: {path} is empty")
    return secret
