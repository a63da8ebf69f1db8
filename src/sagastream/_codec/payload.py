"""Payloads: JSON objects, strictly encoded and decoded.

What is encoded can be decoded; anything else is refused with an `InvalidMessage` that names the
path in the payload.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from sagastream._codec.typed_payloads import plain
from sagastream.errors import InvalidMessage
from sagastream.message import Payload

MAX_PAYLOAD_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_INT_BITS = 12_000
# A number in a text of this length has fewer than `MAX_INT_BITS`.
_SHORT_TEXT = 3000
_SURROGATES = range(0xD800, 0xE000)


def encode_payload(
    payload: Payload,
    *,
    field: str = "payload",
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> str:
    """Encode a payload as canonical JSON: keys sorted, no spaces.

    Raises:
        InvalidMessage: Not a mapping or a model, not JSON, too deep or too large; names the path.
    """
    if type(payload) is not dict and not isinstance(payload, Mapping):
        kind = type(payload).__name__
        payload = plain(payload, field)
        if not isinstance(payload, Mapping):
            raise InvalidMessage(field, f"must be a mapping, not {kind}")
    _check_value(payload, field, 0)
    text = _ENCODER.encode(payload)
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidMessage(field, "has a lone surrogate, which is not text") from error
    if size > max_bytes:
        raise InvalidMessage(
            field,
            f"is {size} bytes of JSON, more than the limit of {max_bytes}; "
            "store it elsewhere and send a reference",
        )
    return text


def decode_payload(
    text: str,
    *,
    field: str = "payload",
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> dict[str, Any]:
    """Decode a payload: the inverse of `encode_payload`, equally strict.

    Raises:
        InvalidMessage: As `encode_payload`; also for NaN, Infinity and duplicate keys.
    """
    if text == "{}":
        return {}
    size = len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
    if size > max_bytes:
        raise InvalidMessage(field, f"is longer than the limit of {max_bytes} bytes")
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise InvalidMessage(field, f"is nested deeper than {MAX_DEPTH}") from error
    except _ConstantError as error:
        raise InvalidMessage(field, f"has {error}, which is not JSON") from None
    except _TwiceError as error:
        raise InvalidMessage(f"{field}.{error}", "occurs twice in one object") from None
    except ValueError as error:
        raise InvalidMessage(field, f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidMessage(field, f"must be a JSON object, not {type(value).__name__}")
    if not _is_harmless(text):
        _check_value(value, field, 0)
    return value


def decode_json(text: str | bytes) -> Any:
    """Decode a JSON text of which no value is infinite or a lone surrogate.

    Raises:
        ValueError: It is not such a text.
        RecursionError: It is nested too deep.
    """
    if isinstance(text, bytes):
        text = text.decode()
    value = _FINITE_DECODER.decode(text)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _is_harmless(text: str) -> bool:
    """Whether a JSON text is so short and plain that `_check_value` cannot refuse its value.

    Most are. Otherwise an escape may be a lone surrogate, a long number too large, and many
    brackets nested too deep.
    """
    return (
        len(text) <= _SHORT_TEXT
        and text.isascii()
        and "\\" not in text
        and text.count("{") + text.count("[") <= MAX_DEPTH
    )


class _ConstantError(ValueError):
    """NaN or Infinity, by name."""


class _TwiceError(ValueError):
    """A key that occurs twice in one object."""


def _refuse_constant(name: str) -> None:
    raise _ConstantError(name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _ConstantError(text[:40])
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return result


def _json_of(value: Any) -> Any:
    """A dict of a mapping that is not one, or a model's JSON; `_check_value` refused the others."""
    return dict(value) if isinstance(value, Mapping) else plain(value, "payload")


_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_json_of
)
_DECODER = json.JSONDecoder(
    parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_unique
)
_FINITE_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
# Most values have these types, and are always valid.
_PLAIN = (bool, type(None))
_PLAIN_INT = 2**63


def _check_value(value: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidMessage(path, f"is nested deeper than {MAX_DEPTH}")
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, str):
        if not value.isascii() and any(ord(char) in _SURROGATES for char in value):
            raise InvalidMessage(path, "has a lone surrogate, which is not text")
    elif isinstance(value, int):
        if value.bit_length() > MAX_INT_BITS:
            raise InvalidMessage(path, f"has more than {MAX_INT_BITS} bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidMessage(path, f"is {value}, which is not JSON")
    elif isinstance(value, Mapping):
        _check_items(value, path, depth)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_value(inner, f"{path}[{index}]", depth + 1)
    elif (inner := plain(value, path)) is not value:
        _check_value(inner, path, depth)
    else:
        kind = type(value)
        name = kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
        raise InvalidMessage(path, f"is a {name}, which is not JSON")


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _check_items(mapping: Mapping[Any, Any], path: str, depth: int) -> None:
    for key, inner in mapping.items():
        if not isinstance(key, str):
            raise InvalidMessage(path, f"has the key {key!r}; keys must be strings")
        if not key.isascii():
            _check_value(key, path, depth)
        kind = type(inner)
        if depth < MAX_DEPTH and (
            (kind is str and inner.isascii()) or (kind is int and -_PLAIN_INT < inner < _PLAIN_INT)
        ):
            continue
        _check_value(inner, f"{path}.{key}", depth + 1)
