"""What real missions have left on a server, and how mutations of it are written back."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.fuzz.mutations import mutated_bytes, mutated_fields, packed_bomb

# Celery's broker is not ours, and its messages carry nothing. Another identity of the data is what
# `DataLost` reports.
_LEFT_ALONE = (b"_kombu", b"unacked", b"celery", b".reply.celery", b"sagastream:instance")
_MAX_ENTRIES = 30  # of a stream, that are mutated
_OTHER_TYPES: tuple[tuple[Any, ...], ...] = (
    ("SET", "text"),
    ("RPUSH", "item"),
    ("SADD", "item"),
    ("ZADD", 1, "item"),
    ("HSET", "field", "value"),
    ("XADD", "*", "field", "value"),
)
_ODD_IDS = (b"\xff\xfe", b"", b"a b", b"{x}", b"x" * 5000, b"../x", b"\x1b[2J", b"nobody")


@dataclass
class Corpus:
    """The keys of a namespace, as they were when they were read.

    Args:
        client: A connection without decoding.
        namespace: The namespace.
        rng: Chooses the mutations.
    """

    client: "redis.Redis"
    namespace: str
    rng: random.Random
    dumps: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    types: dict[bytes, str] = field(default_factory=dict)
    _bomb: bytes = field(default_factory=packed_bomb)
    _extra: int = 0

    def read(self) -> None:
        """Read what is there now, in addition to what was read before."""
        for key in self._keys():
            value = self.client.dump(key)
            if value is not None:
                self.dumps[key] = (value, max(0, self.client.pttl(key)))
                kind: Any = self.client.type(key)
                self.types[key] = kind.decode()

    def restore(self) -> None:
        """Bring everything back to what was read; delete the rest."""
        for key in set(self._keys()) - self.dumps.keys():
            self.client.delete(key)
        pipe = self.client.pipeline(transaction=False)
        for key, (value, ttl_ms) in self.dumps.items():
            pipe.restore(key, ttl_ms, value, replace=True)
        pipe.execute()

    def forget(self) -> None:
        """Delete the mutations, and the missions; robots check in again."""
        self.restore()
        for key in self._keys():
            if key.startswith((self._key("saga"), self._key("request:"), self._key("fleet"))):
                self.client.delete(key)

    def mutate(self, count: int) -> int:
        """Write mutations; return how many commands the server has refused."""
        pipe = self.client.pipeline(transaction=False)
        for _ in range(count):
            key = self.rng.choice(sorted(self.dumps))
            if self.rng.random() < 0.04:
                self._change_type(pipe, key)
            else:
                _WRITERS[self.types[key]](self, pipe, key)
        answers = pipe.execute(raise_on_error=False)
        return sum(isinstance(answer, redis.RedisError) for answer in answers)

    def missions(self) -> list[str]:
        """The ids of the missions that were read."""
        prefix = self._key("saga:")
        ids = (key.removeprefix(prefix).decode() for key in self.dumps if key.startswith(prefix))
        return sorted(name for name in ids if ":" not in name)

    def requests(self) -> list[str]:
        """The ids of the requests that were read."""
        prefix = self._key("request:")
        return sorted(
            key.removeprefix(prefix).decode() for key in self.dumps if key.startswith(prefix)
        )

    def _key(self, name: str) -> bytes:
        return f"{{{self.namespace}}}:{name}".encode()

    def _keys(self) -> Iterator[bytes]:
        prefix = self._key("")
        for key in self.client.scan_iter(match=prefix + b"*", count=1000):
            if not any(mark in key.removeprefix(prefix) for mark in _LEFT_ALONE):
                yield key

    def _change_type(self, pipe: Any, key: bytes) -> None:
        if self.types[key] == "string" and b":blob:" in key and self.rng.random() < 0.3:
            pipe.set(key, self._bomb)
            return
        verb, *rest = self.rng.choice(_OTHER_TYPES)
        pipe.delete(key)
        if self.rng.random() < 0.8:
            pipe.execute_command(verb, key, *rest)

    def _write_string(self, pipe: Any, key: bytes) -> None:
        value = self._value(key)
        if isinstance(value, bytes):
            pipe.set(key, mutated_bytes(value, self.rng), ex=600)

    def _write_hash(self, pipe: Any, key: bytes) -> None:
        """Change the hash; or write a new mission with a changed journal, which is open."""
        fields = self._value(key)
        if not fields:
            return
        changed = mutated_fields(fields, self.rng)
        if key.startswith(self._key("saga:")) and self.rng.random() < 0.3:
            self._extra = (self._extra + 1) % 100
            name = f"fuzz-{self._extra}"
            state = self.rng.choice(("open", "ended", "stuck"))
            pipe.zadd(self._key(f"sagas:mission:{state}"), {name: self.rng.choice((0, 1e15))})
            key = self._key(f"saga:{name}")
        pipe.delete(key)
        pipe.hset(key, mapping=changed)

    def _write_stream(self, pipe: Any, key: bytes) -> None:
        """Append a changed entry."""
        entries = self._value(key)
        if entries:
            _, fields = self.rng.choice(entries)
            pipe.xadd(key, mutated_fields(fields, self.rng), maxlen=2000)

    def _write_sorted_set(self, pipe: Any, key: bytes) -> None:
        members = [*(member for member, _ in self._value(key) or ()), *_ODD_IDS]
        member = mutated_bytes(self.rng.choice(members), self.rng)
        pipe.zadd(key, {member: self.rng.choice((0, -1, 1e15, 1.8e12))})

    def _write_list(self, pipe: Any, key: bytes) -> None:
        items = self._value(key) or [b"item"]
        pipe.rpush(key, mutated_bytes(self.rng.choice(items), self.rng))

    def _write_set(self, pipe: Any, key: bytes) -> None:
        pipe.sadd(key, mutated_bytes(b"item", self.rng))

    def _value(self, key: bytes) -> Any:
        """The value of a key that was read, kept for the next mutations of it."""
        if key not in self._values:
            source = b"fuzz-source"
            self.client.restore(source, 0, self.dumps[key][0], replace=True)
            self._values[key] = _READERS[self.types[key]](self.client, source)
            self.client.delete(source)
        return self._values[key]

    def __post_init__(self) -> None:
        self._values: dict[bytes, Any] = {}


_READERS: dict[str, Callable[[Any, bytes], Any]] = {
    "string": lambda client, key: client.get(key),
    "hash": lambda client, key: client.hgetall(key),
    "stream": lambda client, key: client.xrevrange(key, count=_MAX_ENTRIES),
    "zset": lambda client, key: client.zrange(key, 0, 99, withscores=True),
    "list": lambda client, key: client.lrange(key, 0, 99),
    "set": lambda client, key: client.smembers(key),
}
_WRITERS: dict[str, Callable[[Corpus, Any, bytes], None]] = {
    "string": Corpus._write_string,
    "hash": Corpus._write_hash,
    "stream": Corpus._write_stream,
    "zset": Corpus._write_sorted_set,
    "list": Corpus._write_list,
    "set": Corpus._write_set,
}
