"""Models of pydantic and msgspec, whose own validation decides what fits.

Neither is imported here: a class of theirs can only exist if its package was imported.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from sagastream._codec.converters import refuse
from sagastream.errors import InvalidPayload

_MISSING_FIELD = re.compile(r"Object missing required field `(.*)`")


def is_pydantic(kind: type) -> bool:
    """Whether a class is a pydantic model."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def is_struct(kind: type) -> bool:
    """Whether a class is a msgspec Struct."""
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and issubclass(kind, msgspec.Struct)


def root_of(kind: Any) -> Any:
    """The type that a `RootModel` of pydantic wraps; None for any other model."""
    is_root = issubclass(kind, sys.modules["pydantic"].RootModel)
    return kind.model_fields["root"].annotation if is_root else None


class PydanticModel:
    """A pydantic model: read as JSON and written as JSON, by its aliases.

    Args:
        kind: The class.
        is_object: Whether its JSON is an object; that of a `RootModel` may be a list.
    """

    def __init__(self, kind: Any, *, is_object: bool) -> None:
        self._kind = kind
        self.is_object = is_object

    def decode(self, value: Any, path: str) -> Any:
        """Validate the JSON."""
        return _validated(self._kind.model_validate_json, value, path)

    def encode(self, value: Any, path: str) -> Any:
        """Dump it."""
        if not isinstance(value, self._kind):
            raise refuse(path, f"a {self._kind.__qualname__}", value)
        return _dumped(lambda: value.model_dump(mode="json", by_alias=True), path)


class PydanticDataclass:
    """A dataclass of pydantic, with its validation."""

    is_object = True

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._adapter = sys.modules["pydantic"].TypeAdapter(kind)

    def decode(self, value: Any, path: str) -> Any:
        """Validate the JSON."""
        return _validated(self._adapter.validate_json, value, path)

    def encode(self, value: Any, path: str) -> Any:
        """Dump it."""
        if not isinstance(value, self._kind):
            raise refuse(path, f"a {self._kind.__qualname__}", value)
        return _dumped(lambda: self._adapter.dump_python(value, mode="json", by_alias=True), path)


def _validated(validate: Callable[[str], Any], value: Any, path: str) -> Any:
    # As JSON: a strict model takes a date or a tuple from JSON only, not from a dict.
    try:
        return validate(json.dumps(value))
    except sys.modules["pydantic"].ValidationError as error:
        raise _refused_by_pydantic(error, value, path) from None


def _refused_by_pydantic(error: Any, value: Any, path: str) -> InvalidPayload:
    """The first fault as a path in the payload: `loc` also has the members of unions."""
    first, *more = error.errors(include_url=False, include_input=False, include_context=False)
    where = value
    for part in first["loc"]:
        if isinstance(where, Mapping) and part in where:
            path, where = f"{path}.{part}", where[part]
        elif isinstance(where, list) and isinstance(part, int) and part < len(where):
            path, where = f"{path}[{part}]", where[part]
        elif first["type"] == "missing" and part == first["loc"][-1]:
            return InvalidPayload(f"{path}.{part}", "is missing" + _and_more(more))
    return InvalidPayload(path, f"{first['msg']}{_and_more(more)}")


def _and_more(faults: list[Any]) -> str:
    return f" (and {len(faults)} more)" if faults else ""


def _dumped(dump: Callable[[], Any], path: str) -> Any:
    try:
        return dump()
    except (ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidPayload(path, f"is not JSON: {reason}") from None


class StructModel:
    """A msgspec Struct, which may be generic."""

    def __init__(self, annotation: Any, kind: Any) -> None:
        self._annotation = annotation
        self._kind = kind
        self.is_object = not kind.__struct_config__.array_like

    def decode(self, value: Any, path: str) -> Any:
        """Convert it, as strictly as msgspec reads JSON."""
        msgspec: Any = sys.modules["msgspec"]
        try:
            return msgspec.convert(value, self._annotation)
        except msgspec.ValidationError as error:
            reason, _, where = str(error).partition(" - at `$")
            path += where.rstrip("`")
            if missing := _MISSING_FIELD.fullmatch(reason):
                path, reason = f"{path}.{missing[1]}", "is missing"
            raise InvalidPayload(path, reason) from None

    def encode(self, value: Any, path: str) -> Any:
        """Make builtins of it."""
        if not isinstance(value, self._kind):
            raise refuse(path, f"a {self._kind.__qualname__}", value)
        return _dumped(lambda: sys.modules["msgspec"].to_builtins(value, str_keys=True), path)
