"""Converters between JSON values and the values of one Python type: numbers, text, lists, unions.

`typed_payloads` makes them from annotations, and has those of models. A value that does not fit
is an `InvalidPayload` that names the path in the payload. Its text names the kind of the value,
not the value: a payload may have secrets, and errors go to logs.
"""

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from sagastream.errors import InvalidPayload


class Converter(Protocol):
    """Converts between a JSON value and a Python value.

    Attributes:
        is_object: Whether its JSON value is an object, so that it can be a payload.
    """

    is_object: bool

    def decode(self, value: Any, path: str) -> Any:
        """Make the Python value from a JSON value.

        Raises:
            InvalidPayload: It does not fit; names the path.
        """

    def encode(self, value: Any, path: str) -> Any:
        """Make the JSON value from a Python value.

        Raises:
            InvalidPayload: It does not fit; names the path.
        """


def kind_of(value: Any) -> str:
    """What a JSON value is, in the words of JSON; the class of any other value."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text"}
    if type(value) in names:
        return names[type(value)]
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else type(value).__qualname__


def refuse(path: str, expected: str, value: Any) -> InvalidPayload:
    """The error of a value that is not what was expected."""
    return InvalidPayload(path, f"must be {expected}, not {kind_of(value)}")


class AnyValue:
    """Any JSON value; it is not converted."""

    def __init__(self, *, is_object: bool = False) -> None:
        self.is_object = is_object

    def decode(self, value: Any, path: str) -> Any:
        """Check that it is an object, if it must be one."""
        if self.is_object and not isinstance(value, Mapping):
            raise refuse(path, "an object", value)
        return value

    encode = decode


class Plain:
    """A value that JSON has: text, a number, a boolean or null.

    Args:
        expected: What it must be, for messages.
        fits: Whether a value is one.
    """

    is_object = False

    def __init__(self, expected: str, fits: Callable[[Any], bool]) -> None:
        self._expected = expected
        self._fits = fits

    def decode(self, value: Any, path: str) -> Any:
        """Check its type."""
        if not self._fits(value):
            raise refuse(path, self._expected, value)
        return value

    encode = decode


class Number:
    """A float; JSON does not tell 1 from 1.0."""

    is_object = False

    def decode(self, value: Any, path: str) -> float:
        """Accept a whole number too."""
        if type(value) not in {int, float}:
            raise refuse(path, "a number", value)
        try:
            return float(value)
        except OverflowError:
            raise InvalidPayload(path, "is too large for a float") from None

    def encode(self, value: Any, path: str) -> float:
        """Refuse what JSON does not have."""
        number = self.decode(value, path)
        if not math.isfinite(number):
            raise InvalidPayload(path, f"is {number}, which is not JSON")
        return number


class AsText:
    """A value that JSON has as text, such as a date.

    Args:
        kind: Its class.
        expected: What the text must be, for messages.
        parse: Makes it from text.
        write: Makes the text.
    """

    is_object = False

    def __init__(
        self,
        kind: type,
        expected: str,
        parse: Callable[[str], Any],
        write: Callable[[Any], str] = str,
    ) -> None:
        self._kind = kind
        self._expected = expected
        self._parse = parse
        self._write = write

    def decode(self, value: Any, path: str) -> Any:
        """Parse the text."""
        if type(value) is not str:
            raise refuse(path, self._expected, value)
        try:
            return self._parse(value)
        except (ValueError, InvalidOperation, OverflowError):
            raise InvalidPayload(path, f"must be {self._expected}") from None

    def encode(self, value: Any, path: str) -> str:
        """Write the text."""
        if not isinstance(value, self._kind):
            raise refuse(path, self._expected, value)
        return self._write(value)


def _bytes_of(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


# `bool` is an `int`, and a `datetime` a `date`: each class has its own converter.
SCALARS: Mapping[Any, Converter] = {
    Any: AnyValue(),
    object: AnyValue(),
    str: Plain("text", lambda value: isinstance(value, str)),
    bool: Plain("a boolean", lambda value: type(value) is bool),
    int: Plain("a whole number", lambda value: type(value) is int),
    float: Number(),
    type(None): Plain("null", lambda value: value is None),
    datetime: AsText(
        datetime,
        "a time in ISO 8601",
        datetime.fromisoformat,
        datetime.isoformat,
    ),
    date: AsText(date, "a date in ISO 8601", date.fromisoformat, date.isoformat),
    time: AsText(time, "a time of day in ISO 8601", time.fromisoformat, time.isoformat),
    UUID: AsText(UUID, "a UUID", UUID),
    Decimal: AsText(Decimal, "a decimal number as text", Decimal),
    bytes: AsText(bytes, "bytes in base64", _bytes_of, lambda raw: base64.b64encode(raw).decode()),
}


class Choice:
    """One of some values: an `Enum` or a `Literal`.

    Args:
        values: The JSON value of each value.
    """

    is_object = False

    def __init__(self, values: Sequence[tuple[Any, Any]]) -> None:
        self._values = values
        self._expected = "one of " + ", ".join(repr(plain) for plain, _ in values)

    @classmethod
    def of_enum(cls, kind: type[Enum]) -> "Choice":
        """The members of an `Enum`."""
        return cls([(member.value, member) for member in kind])

    def decode(self, value: Any, path: str) -> Any:
        """Find the value; `1` is not `True`."""
        for plain, found in self._values:
            if type(plain) is type(value) and plain == value:
                return found
        raise InvalidPayload(path, f"must be {self._expected}")

    def encode(self, value: Any, path: str) -> Any:
        """Find the JSON value."""
        for plain, found in self._values:
            if type(found) is type(value) and found == value:
                return plain
        raise InvalidPayload(path, f"must be {self._expected}")


class ListOf:
    """A list, a set or a tuple of any length.

    Args:
        item: Converts an item.
        make: Makes the collection.
        kinds: What may be encoded.
    """

    is_object = False

    def __init__(self, item: Converter, make: Callable[[list[Any]], Any], *kinds: type) -> None:
        self._item = item
        self._make = make
        self._kinds = kinds

    def decode(self, value: Any, path: str) -> Any:
        """Convert each item."""
        if not isinstance(value, list | tuple):
            raise refuse(path, "a list", value)
        return self._make([self._item.decode(each, f"{path}[{i}]") for i, each in enumerate(value)])

    def encode(self, value: Any, path: str) -> list[Any]:
        """Convert each item."""
        if not isinstance(value, self._kinds):
            raise refuse(path, "a list", value)
        items: list[Any] = list(value)  # type: ignore[call-overload]  # `kinds` are collections
        return [self._item.encode(each, f"{path}[{i}]") for i, each in enumerate(items)]


class TupleOf:
    """A tuple with a converter for each item."""

    is_object = False

    def __init__(self, items: Sequence[Converter]) -> None:
        self._items = items

    def decode(self, value: Any, path: str) -> tuple[Any, ...]:
        """Convert each item."""
        self._check(value, path)
        items = zip(self._items, value, strict=True)
        return tuple(item.decode(each, f"{path}[{i}]") for i, (item, each) in enumerate(items))

    def encode(self, value: Any, path: str) -> list[Any]:
        """Convert each item."""
        self._check(value, path)
        items = zip(self._items, value, strict=True)
        return [item.encode(each, f"{path}[{i}]") for i, (item, each) in enumerate(items)]

    def _check(self, value: Any, path: str) -> None:
        if not isinstance(value, list | tuple):
            raise refuse(path, "a list", value)
        if len(value) != len(self._items):
            raise InvalidPayload(path, f"must have {len(self._items)} items, not {len(value)}")


class MappingOf:
    """An object whose keys are not known.

    Args:
        key: Converts a key, to and from text.
        item: Converts a value.
    """

    is_object = True

    def __init__(self, key: Converter, item: Converter) -> None:
        self._key = key
        self._item = item

    def decode(self, value: Any, path: str) -> dict[Any, Any]:
        """Convert each key and value."""
        if not isinstance(value, Mapping):
            raise refuse(path, "an object", value)
        return {
            self._key.decode(key, f"{path}.{key}"): self._item.decode(each, f"{path}.{key}")
            for key, each in value.items()
        }

    def encode(self, value: Any, path: str) -> dict[str, Any]:
        """Convert each key and value."""
        if not isinstance(value, Mapping):
            raise refuse(path, "an object", value)
        return {
            self._key.encode(key, f"{path}.{key}"): self._item.encode(each, f"{path}.{key}")
            for key, each in value.items()
        }


class UnionOf:
    """A value of the first type that it fits.

    Args:
        members: The converters, in the order of the annotation.
        expected: The names of the types, for messages.
    """

    def __init__(self, members: Sequence[Converter], expected: str) -> None:
        self._members = members
        self._expected = expected
        nulls = SCALARS[type(None)]
        self.is_object = all(each.is_object or each is nulls for each in members) and any(
            each.is_object for each in members
        )

    def decode(self, value: Any, path: str) -> Any:
        """Try each type."""
        return self._first(value, path, lambda each: each.decode(value, path))

    def encode(self, value: Any, path: str) -> Any:
        """Try each type."""
        return self._first(value, path, lambda each: each.encode(value, path))

    def _first(self, value: Any, path: str, convert: Callable[[Converter], Any]) -> Any:
        nulls = SCALARS[type(None)]
        refused = []
        for each in self._members:
            try:
                return convert(each)
            except InvalidPayload as error:
                if each is not nulls:
                    refused.append(error)
        if len(refused) == 1 and value is not None:
            raise refused[0]  # `Order | None`: what is wrong with the order
        # The error that is deepest inside the value names the field of the most likely type.
        inner = max(refused, key=lambda error: len(error.field))
        if inner.field != path:
            raise inner
        raise refuse(path, self._expected, value)
