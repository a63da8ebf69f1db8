"""The server-side function library: its source, its names, and the protocol of its callers.

The Lua is in `lua/`, one file for each idea; they are joined here. The names of the library and
of its functions contain a digest of the source, so that two releases can share a server and
neither runs the other's code.
"""

import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Protocol

from sagastream._codec.entries import SCHEMA_VERSION
from sagastream._redis.deadline import Deadline

# In this order: each file uses functions of the files before it.
_SHARED = (
    "prelude",
    "pages",
    "packing",
    "record",
    "memory",
    "queue",
    "limiter",
    "replies",
    "call",
    "window",
    "request",
    "due",
)
# No other file uses these. Each is one block, as Lua allows 200 local names in a block.
_ALONE = ("claim", "stream", "saga", "signal", "schedule", "readers")


def _joined() -> str:
    folder = files("sagastream._functions").joinpath("lua")

    def text(name: str) -> str:
        return folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")

    return "\n".join([*map(text, _SHARED), *(f"do\n{text(name)}end" for name in _ALONE)])


_TEMPLATE = _joined()
# The layout of a request's record that this release writes. It reads this one and older ones.
RECORD_LAYOUT = 5
# The library's name.
LIBRARY = "sagastream_" + hashlib.sha256(_TEMPLATE.encode()).hexdigest()[:12]
# What FUNCTION LOAD takes.
SOURCE = _TEMPLATE.replace("@LIBRARY@", LIBRARY).replace("@SCHEMA@", SCHEMA_VERSION)
SOURCE = SOURCE.replace("@LAYOUT@", str(RECORD_LAYOUT))


def function_name(transition: str) -> str:
    """The name under which the server knows a transition."""
    return f"{LIBRARY}_{transition}"


class Caller(Protocol):
    """Sends commands, loads a missing function library, and retries after a lost connection.

    Retrying is safe because the functions are idempotent: each answers the same when it is
    called again.
    """

    async def call(self, *args: Any, deadline: Deadline | None = None) -> Any:
        """Send a command and wait for its answer."""

    def post(
        self,
        args: tuple[Any, ...],
        receive: Callable[[Any], None],
        *,
        on_retry: Callable[[BaseException], bool],
    ) -> None:
        """Send a command; `receive` gets its answer, or the exception that came instead."""

    def timed_out(self, deadline: Deadline) -> Exception:
        """The error of a call whose deadline has passed."""
