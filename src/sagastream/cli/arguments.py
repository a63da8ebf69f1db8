"""What the verbs take as arguments: each reads one from its text, or says in a line what is wrong."""

import argparse
import json
import math
import re
from typing import Any

_LAST_PORT = 65535
_PAGE = re.compile(r"[0-9]+-[0-9]+")


def count(text: str) -> int:
    """Read a whole number, from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, from 0")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number, from 1."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    """Read a number of seconds, from 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, from 0")
    return number


def port_number(text: str) -> int:
    """Read a port, from 0."""
    if not (text.isdecimal() and int(text) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text} is not a port, from 0 to {_LAST_PORT}")
    return int(text)


def identity(text: str) -> str:
    """Read an id or a name, or its beginning."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def page(text: str) -> str:
    """Read where a list goes on, as the page before said."""
    if text and not _PAGE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text} is not from a page before")
    return text


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, not {text}")
    return value
