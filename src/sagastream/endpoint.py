"""What one process and loop has of a bus: its connections, its inbox, what it remembers."""

from dataclasses import dataclass

from sagastream.connection import Connection
from sagastream.functions import Functions
from sagastream.inbox import Inbox
from sagastream.instance import Instance
from sagastream.telemetry import Server, server_of


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one process and loop has of a bus."""

    connection: Connection
    functions: Functions
    instance: Instance
    inbox: Inbox
    server: Server


def make_endpoint(
    url: str,
    prefix: str,
    *,
    patience_s: float,
    retention_s: float,
    max_payload: int,
    max_waiting: int,
) -> Endpoint:
    """An endpoint for the running loop; nothing connects before it is used.

    The arguments are those of `Bus`; `prefix` is put before every key.
    """
    connection = Connection(url, patience_s=patience_s)
    instance = Instance(connection, f"{prefix}sagastream:instance")
    return Endpoint(
        connection,
        Functions(connection, reply_ttl_ms=round(retention_s * 1000)),
        instance,
        Inbox(connection, instance, prefix, max_bytes=max_payload, max_waiting=max_waiting),
        server_of(url),
    )
