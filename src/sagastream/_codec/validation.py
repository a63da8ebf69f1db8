"""Check names, durations, counts and the types of stored values; make new ids."""

import hashlib
import math
import os
import re
from base64 import b64encode
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from sagastream.errors import InvalidMessage

MAX_NAME_LENGTH = 256

_NAME = re.compile(r"[^\s\x00-\x1f\x7f{}]+")
# Ids made ahead: a system call for each one would cost more than the rest of its making.
_ids: list[str] = []
os.register_at_fork(after_in_child=_ids.clear)
_ID_LENGTH = 22
_IDS_AT_ONCE = 128


def check_name(field: str, value: str, *, required: bool = True) -> str:
    """Check an id, a stream name or an event type.

    Raises:
        InvalidMessage: Not text, empty though required, too long, or with white space,
            control characters or braces (braces belong to the namespace).
    """
    if type(value) is str:  # the usual case
        if not value and not required:
            return value
        if len(value) <= MAX_NAME_LENGTH and value.isascii() and _NAME.fullmatch(value):
            return value
    if not isinstance(value, str):
        raise InvalidMessage(field, f"must be text, not {type(value).__name__}")
    if len(value) > MAX_NAME_LENGTH:
        raise InvalidMessage(field, f"is longer than {MAX_NAME_LENGTH} characters")
    if not _NAME.fullmatch(value):
        raise InvalidMessage(
            field,
            f"{value[:40]!r} must not be empty or have white space, control characters or braces",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(field, "has a lone surrogate, which is not text") from error
    return value


def check_seconds(field: str, value: float) -> float:
    """Check a duration.

    Raises:
        InvalidMessage: It is not a finite number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidMessage(field, f"must be a number of seconds above 0, not {value!r}")
    if not math.isfinite(value):
        raise InvalidMessage(field, "must be finite")
    return value


def as_milliseconds(field: str, value: float | None) -> int | None:
    """Check a duration in seconds, and return it in milliseconds; None stays None.

    Raises:
        InvalidMessage: It is not a finite number above 0.
    """
    return None if value is None else max(1, round(check_seconds(field, value) * 1000))


def check_count(field: str, value: int | None) -> int | None:
    """Check a count; None stays None.

    Raises:
        InvalidMessage: It is not a whole number above 0.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidMessage(field, f"must be a whole number above 0, not {value!r}")
    return value


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value that was read as JSON has the type of an annotation.

    A number must be finite. The values of a `dict` are checked too, those of a list are not.
    """
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in parts
    if kind is UnionType:
        return any(has_type(value, part) for part in parts)
    if kind is dict:
        return isinstance(value, dict) and all(has_type(each, parts[1]) for each in value.values())
    if hint is float:
        return type(value) in {int, float} and math.isfinite(value)
    return hint is Any or type(value) is (type(None) if hint is None else hint)


def new_id() -> str:
    """A new id: 22 letters and digits, of 130 random bits.

    Short, because a request's id is in its record, in each of its entries, and remembered.
    """
    try:
        return _ids.pop()
    except IndexError:
        # Each character has six random bits; "A" and "Z" stand for the two that are no letters.
        text = b64encode(os.urandom(_IDS_AT_ONCE * _ID_LENGTH * 6 // 8), b"AZ").decode()
        _ids.extend(text[at : at + _ID_LENGTH] for at in range(0, len(text), _ID_LENGTH))
        return _ids.pop()


def derived_id(name: str) -> str:
    """The id that follows from a name: always the same one, of the same form as `new_id`."""
    digest = hashlib.sha256(name.encode()).digest()
    return b64encode(digest, b"AZ").decode()[:_ID_LENGTH]
