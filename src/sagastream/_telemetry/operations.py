"""Where spans and series are made: an operation on a stream of a server, by the conventions.

What all spans of such a place have in common is made once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from sagastream._telemetry import metrics

SYSTEM = "redis"
_ID = re.compile(r"(?<=:)[^:]*[0-9][^:]*")

Attributes = Mapping[str, str | int | float]
# The attributes that name a server.
Server = tuple[tuple[str, str | int], ...]


def server_of(url: str) -> Server:
    """The attributes that name a server, from its URL."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return (("server.address", parts.path),)
    return (("server.address", parts.hostname or ""), ("server.port", parts.port or 6379))


def template(stream: str) -> str:
    """A stream's name with its ids taken out, so that names of spans and series stay few.

    An id is what stands behind a colon and has a digit: `robots:r2:commands` is of
    `robots:{id}:commands`.
    """
    return _ID.sub("{id}", stream)


def destination(stream: str) -> dict[str, str]:
    """The attributes that name a stream on a span."""
    low = template(stream)
    names = {"messaging.destination.name": stream}
    return names if low == stream else names | {"messaging.destination.template": low}


@dataclass(frozen=True, slots=True)
class MessagingOperation:
    """An operation on a stream: what all of its spans, and of its series, have in common.

    Attributes:
        name: Of the spans.
        attributes: Of the spans, by the conventions.
        series: Those of them that stay few.
    """

    name: str
    attributes: Attributes
    series: metrics.Series


@lru_cache(maxsize=1024)
def place(
    operation: str, kind: str, server: Server, stream: str, group: str = ""
) -> MessagingOperation:
    """The place of an operation of a kind, by the conventions' names for both."""
    common: dict[str, str | int | float] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
    }
    if group:
        common["messaging.consumer.group.name"] = group
    common |= {name: value for name, value in server if value != ""}
    common |= destination(stream)
    return MessagingOperation(f"{operation} {template(stream)}", common, metrics.series_of(common))
