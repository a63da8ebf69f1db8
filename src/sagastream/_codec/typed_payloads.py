"""Payloads of a declared type: dataclass, TypedDict, pydantic model or msgspec Struct.

`converter_of` makes a converter from an annotation, once; `plain` makes JSON from a model.
"""

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

from sagastream._codec.converters import (
    SCALARS,
    AnyValue,
    Choice,
    Converter,
    ListOf,
    MappingOf,
    TupleOf,
    UnionOf,
    refuse,
)
from sagastream._codec.foreign_models import (
    PydanticDataclass,
    PydanticModel,
    StructModel,
    is_pydantic,
    is_struct,
    root_of,
)
from sagastream.errors import InvalidPayload

_LISTS: Mapping[Any, tuple[Callable[[list[Any]], Any], tuple[type, ...]]] = {
    list: (list, (list, tuple)),
    collections.abc.Sequence: (list, (list, tuple)),
    collections.abc.MutableSequence: (list, (list, tuple)),
    collections.abc.Iterable: (list, (list, tuple)),
    collections.abc.Collection: (list, (list, tuple)),
    tuple: (tuple, (list, tuple)),
    set: (set, (set, frozenset)),
    frozenset: (frozenset, (set, frozenset)),
    collections.abc.Set: (frozenset, (set, frozenset)),
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_OPTIONAL = {"NotRequired": False, "Required": True}
_MISSING = object()


class UnsupportedType(Exception):
    """An annotation that cannot be a value of a payload; says which part, and why."""


def is_model(kind: Any) -> bool:
    """Whether a class is a dataclass, a pydantic model or a msgspec Struct."""
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or is_pydantic(kind) or is_struct(kind)
    )


def converter_of(annotation: Any) -> Converter:
    """The converter of an annotation, made once.

    Raises:
        UnsupportedType: It cannot be a value of a payload.
    """
    try:
        return _made(annotation)
    except TypeError:  # an annotation that cannot be hashed
        return _Compiler().compile(annotation)


@lru_cache(maxsize=1024)
def _made(annotation: Any) -> Converter:
    return _Compiler().compile(annotation)


def plain(value: Any, path: str) -> Any:
    """Make JSON from a model; any other value is returned as it is.

    Raises:
        InvalidPayload: A field of the model is not of its type, or is not JSON.
    """
    kind: Any = type(value)
    if not is_model(kind):
        return value
    try:
        return converter_of(kind).encode(value, path)
    except UnsupportedType as error:
        raise InvalidPayload(path, f"is a {kind.__qualname__} that is not JSON: {error}") from None


def _is_typed_dict(kind: Any) -> bool:
    # `typing_extensions` has its own, so its class does not tell.
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__total__")


class _Compiler:
    """Makes converters; a model that contains itself gets one that refers to itself."""

    def __init__(self) -> None:
        self._made: dict[Any, Fields] = {}

    def compile(self, annotation: Any) -> Converter:
        """Make the converter of an annotation, whose names are resolved."""
        origin, parts = get_origin(annotation), get_args(annotation)
        if type(annotation).__name__ == "TypeAliasType":
            return self.compile(annotation.__value__)
        if isinstance(annotation, NewType):
            return self.compile(annotation.__supertype__)
        if isinstance(annotation, TypeVar):
            return self.compile(annotation.__bound__ or Any)
        if origin is Annotated or getattr(origin, "_name", "") in {"ReadOnly", "Final"}:
            return self.compile(parts[0])
        if annotation is None:
            return SCALARS[type(None)]
        if origin is Literal:
            return Choice([(each, each) for each in parts])
        if origin in {Union, types.UnionType}:
            names = " or ".join(getattr(each, "__name__", str(each)) for each in parts)
            return UnionOf([self.compile(each) for each in parts], names)
        known = _scalar(annotation)
        return known or self._collection(annotation, origin, parts) or self._model(annotation)

    def _collection(self, annotation: Any, origin: Any, parts: tuple[Any, ...]) -> Converter | None:
        kind = origin or annotation
        if kind in _MAPPINGS:
            if not parts:
                return AnyValue(is_object=True)
            key, item = (self.compile(each) for each in parts)
            if parts[0] in {str, Any} and parts[1] in {Any, object}:
                return AnyValue(is_object=True)
            if key in {SCALARS[int], SCALARS[float], SCALARS[bool]} or key.is_object:
                raise UnsupportedType(f"{_name(annotation)} has keys that are not text")
            return MappingOf(key, item)
        if kind is tuple and parts and parts[-1] is not Ellipsis:
            return TupleOf([self.compile(each) for each in parts])
        if kind in _LISTS:
            make, kinds = _LISTS[kind]
            return ListOf(self.compile(parts[0] if parts else Any), make, *kinds)
        return None

    def _model(self, annotation: Any) -> Converter:
        kind = get_origin(annotation) or annotation
        if isinstance(kind, type) and is_pydantic(kind):
            root = root_of(kind)
            return PydanticModel(kind, is_object=root is None or self.compile(root).is_object)
        if isinstance(kind, type) and is_struct(kind):
            return StructModel(annotation, kind)
        if hasattr(kind, "__pydantic_validator__"):
            return PydanticDataclass(kind)
        if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or _is_typed_dict(kind)):
            return self._fields(annotation, kind)
        raise UnsupportedType(
            f"{_name(annotation)} is not JSON, nor a dataclass, a TypedDict, a pydantic model or a "
            "msgspec Struct"
        )

    def _fields(self, annotation: Any, kind: type) -> "Fields":
        if annotation in self._made:
            return self._made[annotation]
        self._made[annotation] = made = Fields(kind)
        values = dict(zip(getattr(kind, "__parameters__", ()), get_args(annotation), strict=False))
        try:
            hints = typing.get_type_hints(kind, include_extras=True)
        except NameError as error:
            raise UnsupportedType(
                f"{kind.__qualname__} has an annotation that cannot be resolved ({error}); define "
                "the class in a module, and import it at run time"
            ) from error
        for name, required, hint in _declared(kind, hints):
            try:
                made.add(name, self.compile(_substituted(hint, values)), is_required=required)
            except UnsupportedType as error:
                raise UnsupportedType(f"{kind.__qualname__}.{name}: {error}") from None
        return made


def _scalar(annotation: Any) -> Converter | None:
    try:
        known = SCALARS.get(annotation)
    except TypeError:
        return None
    if known is None and isinstance(annotation, type):
        if issubclass(annotation, Enum):
            if all(type(each.value) in {str, int, float, bool} for each in annotation):
                return Choice.of_enum(annotation)
            raise UnsupportedType(f"{annotation.__qualname__} has members that are not JSON")
        if annotation.__mro__[1:2] == (str,):
            return SCALARS[str]
    return known


def _name(annotation: Any) -> str:
    return annotation.__qualname__ if type(annotation) is type else str(annotation)


def _declared(kind: type, hints: Mapping[str, Any]) -> list[tuple[str, bool | None, Any]]:
    """The fields of a class: name, whether a payload must have it (None: never read), and type."""
    if not dataclasses.is_dataclass(kind):
        found: list[tuple[str, bool | None, Any]] = []
        keys: frozenset[str] = getattr(kind, "__required_keys__", frozenset(hints))
        for name, hint in hints.items():
            wrapper = getattr(get_origin(hint), "_name", "")
            required = _OPTIONAL.get(wrapper, name in keys)
            found.append((name, required, get_args(hint)[0] if wrapper in _OPTIONAL else hint))
        return found
    fields = dataclasses.fields(kind)
    extra = [
        name
        for name, field in kind.__dataclass_fields__.items()
        if isinstance(field.type, dataclasses.InitVar) or str(field.type).startswith("InitVar")
    ]
    if extra:
        raise UnsupportedType(f"{kind.__qualname__}.{extra[0]} is an InitVar, which is not kept")
    absent = dataclasses.MISSING
    return [
        (
            field.name,
            (field.default is absent and field.default_factory is absent) if field.init else None,
            hints[field.name],
        )
        for field in fields
    ]


def _substituted(hint: Any, values: Mapping[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return values.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if parameters and not isinstance(hint, type):
        return hint[tuple(values.get(each, each) for each in parameters)]
    return hint


class Fields:
    """A dataclass or a TypedDict. Keys that it does not declare are ignored.

    Args:
        kind: The class.
    """

    is_object = True

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._is_dict = not dataclasses.is_dataclass(kind)
        self._fields: dict[str, tuple[Converter, bool | None]] = {}

    def add(self, name: str, converter: Converter, *, is_required: bool | None) -> None:
        """Add a field; `is_required` is None for one that is written, but never read."""
        self._fields[name] = (converter, is_required)

    def decode(self, value: Any, path: str) -> Any:
        """Make the object from its fields."""
        if not isinstance(value, Mapping):
            raise refuse(path, "an object", value)
        found = {}
        for name, (converter, is_required) in self._fields.items():
            if is_required is None:
                continue
            if name in value:
                found[name] = converter.decode(value[name], f"{path}.{name}")
            elif is_required:
                raise InvalidPayload(f"{path}.{name}", "is missing")
        if self._is_dict:
            return found
        try:
            return self._kind(**found)
        except InvalidPayload:
            raise
        except (ValueError, TypeError) as error:  # of its `__post_init__`
            raise InvalidPayload(path, str(error) or type(error).__name__) from None

    def encode(self, value: Any, path: str) -> dict[str, Any]:
        """Write the fields."""
        if self._is_dict:
            if not isinstance(value, Mapping):
                raise refuse(path, "an object", value)
        elif not isinstance(value, self._kind):
            raise refuse(path, f"a {self._kind.__qualname__}", value)
        elif type(value) is not self._kind:
            written = plain(value, path)  # a subclass, with its own fields
            assert isinstance(written, dict)
            return written
        found = {}
        for name, (converter, is_required) in self._fields.items():
            each = value.get(name, _MISSING) if self._is_dict else getattr(value, name)
            if each is not _MISSING:
                found[name] = converter.encode(each, f"{path}.{name}")
            elif is_required:
                raise InvalidPayload(f"{path}.{name}", "is missing")
        return found
