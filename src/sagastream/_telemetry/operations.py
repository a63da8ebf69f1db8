"""A messaging operation on a stream of a server: what its spans and metrics have in common.

Names and attributes follow the messaging semantic conventions, version 1.44. They are made
once for each operation and cached.
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
    """The attributes that name a server, from its URL; of several hosts, the first."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return (("server.address", parts.path),)
    parts = urlsplit("//" + parts.netloc.rpartition("@")[2].partition(",")[0])
    return (("server.address", parts.hostname or ""), ("server.port", parts.port or 6379))


def template(stream: str) -> str:
    """A stream's name without its ids: a low-cardinality name for spans and metrics.

    An id is a part behind a colon that has a digit: `robots:r2:commands` becomes
    `robots:{id}:commands`.
    """
    return _ID.sub("{id}", stream)


def destination(stream: str) -> dict[str, str]:
    """The attributes that name a stream on a span."""
    without_ids = template(stream)
    names = {"messaging.destination.name": stream}
    if without_ids == stream:
        return names
    return names | {"messaging.destination.template": without_ids}


@dataclass(frozen=True, slots=True)
class MessagingOperation:
    """An operation on a stream.

    Attributes:
        name: The name of its spans.
        attributes: The attributes of its spans.
        series: The low-cardinality ones of these, for its metrics.
    """

    name: str
    attributes: Attributes
    series: metrics.Series


@lru_cache(maxsize=1024)
def operation_on(
    name: str, operation_type: str, server: Server, stream: str, group: str = ""
) -> MessagingOperation:
    """An operation on a stream.

    Args:
        name: `messaging.operation.name`.
        operation_type: `messaging.operation.type`.
        server: The server's attributes.
        stream: The stream, without the namespace.
        group: The consumer group, '' if there is none.
    """
    common: dict[str, str | int | float] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": operation_type,
    }
    if group:
        common["messaging.consumer.group.name"] = group
    common |= {attribute: value for attribute, value in server if value != ""}
    common |= destination(stream)
    return MessagingOperation(f"{name} {template(stream)}", common, metrics.series_of(common))
