"""Mutations of bytes, JSON values, the fields of an entry, and keys. Equal seeds give equal ones."""

import json
import random
import zlib
from collections.abc import Callable, Mapping
from typing import Any

_DEPTHS = (40, 5000)
_LARGE = 200_000
_BOMB_BYTES = 2**28
# Of values that JSON or its readers treat as special. A `_Raw` is written as it is.
_NUMBERS = (0, -1, 0.5, 1e308, 10**30, -(10**30), 2**63, 2**31)
_TEXTS = ("", " ", "\x00", "\x1b[2J", "nan", "-0", "../../x", "{a}", "\ud800", "é" * 9, "1e999")


class _Raw(str):
    """A text that stands in JSON without quotes."""

    __slots__ = ()


_RAWS = tuple(map(_Raw, ("NaN", "Infinity", "-Infinity", "1e999", "-0", "01", "nul", "{", "]")))


def mutated_bytes(value: bytes, rng: random.Random) -> bytes:
    """Return a value in which bits, bytes, or parts of its JSON are changed."""
    if rng.random() < 0.5:
        try:
            tree = json.loads(value)
        except (ValueError, RecursionError):
            pass
        else:
            return _encoded(_mutated_tree(tree, rng))
    return rng.choice(_ON_BYTES)(value, rng)


def mutated_fields(fields: Mapping[bytes, bytes], rng: random.Random) -> dict[bytes, bytes]:
    """Return the fields of an entry or a hash with one change; never none."""
    changed = dict(fields)
    name = rng.choice(sorted(changed)) if changed else b"payload"
    match rng.randrange(6):
        case 0 if len(changed) > 1:
            del changed[name]
        case 1:
            changed[mutated_bytes(name, rng) or b"x"] = changed.pop(name, b"")
        case 2:
            changed[name] = rng.choice(sorted(changed.values()) or [b""])
        case 3:
            changed |= {f"extra-{number}".encode(): b"1" for number in range(rng.choice((1, 300)))}
        case _:
            changed[name] = mutated_bytes(changed.get(name, b""), rng)
    return changed


def packed_bomb() -> bytes:
    """Return some kilobytes that unpack to a quarter of a gigabyte."""
    packer = zlib.compressobj(9)
    zeros = bytes(2**20)
    parts = [packer.compress(zeros) for _ in range(_BOMB_BYTES // len(zeros))]
    return b"".join(parts) + packer.flush()


def _flip(value: bytes, rng: random.Random) -> bytes:
    changed = bytearray(value or b"\x00")
    for _ in range(rng.choice((1, 1, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(value: bytes, rng: random.Random) -> bytes:
    return value[: rng.randrange(len(value) + 1)]


def _insert(value: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(value) + 1)
    return value[:at] + rng.randbytes(rng.choice((1, 4, 64))) + value[at:]


def _replace(_value: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"",
            b"\xff\xfe",
            rng.randbytes(16),
            _encoded(rng.choice(_TEXTS)),
            _encoded(rng.choice(_RAWS)),
            b"[" * rng.choice(_DEPTHS),
        )
    )


def _grow(value: bytes, rng: random.Random) -> bytes:
    return value + b"x" * rng.choice((100, _LARGE))


def _repeat(value: bytes, _rng: random.Random) -> bytes:
    return value[:10_000] * 2


_ON_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_flip, _flip, _cut, _cut, _insert, _replace, _replace, _repeat, _grow),
)


def _mutated_tree(tree: Any, rng: random.Random) -> Any:
    """Change one place of a JSON value."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        name = rng.choice(sorted(tree))
        if rng.random() < 0.15:
            return {key: value for key, value in tree.items() if key != name}
        return tree | {name: _mutated_tree(tree[name], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        at = rng.randrange(len(tree))
        if rng.random() < 0.15:
            return tree[:at] + tree[at:] * 2
        return [*tree[:at], _mutated_tree(tree[at], rng), *tree[at + 1 :]]
    return _odd_value(rng)


def _odd_value(rng: random.Random) -> Any:
    match rng.randrange(8):
        case 0:
            return rng.choice((None, True, False, [], {}, [[]], {"": {}}))
        case 1 | 2:
            return rng.choice(_NUMBERS)
        case 3:
            return rng.choice(_TEXTS)
        case 4:
            depth = rng.choice(_DEPTHS)
            return _Raw("[" * depth + "]" * depth)
        case 5:
            return "x" * rng.choice((100, _LARGE))
        case 6:
            return [0] * rng.choice((3, 10_000))
        case _:
            return rng.choice(_RAWS)


def _encoded(tree: Any) -> bytes:
    """Return a value as JSON, in which what is raw stands as it is."""
    if isinstance(tree, _Raw):
        return str(tree).encode()
    if isinstance(tree, dict):
        pairs = (_encoded(str(name)) + b":" + _encoded(value) for name, value in tree.items())
        return b"{" + b",".join(pairs) + b"}"
    if isinstance(tree, list):
        return b"[" + b",".join(map(_encoded, tree)) + b"]"
    return json.dumps(tree).encode()
