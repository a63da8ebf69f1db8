"""The server-side function library: its source, its names, and what calls it.

The Lua is in `lua/`, one file for each idea; they are joined here. The name of the library and
of its functions carries a digest of the source, so that two releases can share a server and
neither runs the other's code.
"""

import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Protocol

from sagastream._codec.entries import SCHEMA_VERSION

# In this order, as each file uses what stands in those before it.
_FILES = ("prelude", "record", "request", "claim", "stream", "saga", "readers")


def _joined() -> str:
    folder = files("sagastream._functions").joinpath("lua")
    return "\n".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in _FILES)


_TEMPLATE = _joined()
# The library's name.
LIBRARY = "sagastream_" + hashlib.sha256(_TEMPLATE.encode()).hexdigest()[:12]
# What FUNCTION LOAD takes.
SOURCE = _TEMPLATE.replace("@LIBRARY@", LIBRARY).replace("@SCHEMA@", SCHEMA_VERSION)


def function_name(transition: str) -> str:
    """The name under which the server knows a transition."""
    return f"{LIBRARY}_{transition}"


class Caller(Protocol):
    """Sends commands, loads the function library where it is missing, and retries after a loss.

    To retry is safe, as each function answers the same when it is called again.
    """

    async def call(self, *args: Any, call_timeout_s: float | None = None) -> Any:
        """Send a command and wait for its answer."""

    def post(
        self,
        args: tuple[Any, ...],
        receive: Callable[[Any], None],
        *,
        call_timeout_s: float | None,
        on_retry: Callable[[BaseException], bool],
    ) -> None:
        """Send a command; `receive` gets its answer, or the exception that came instead."""

    @property
    def is_idle(self) -> bool:
        """Whether no answer is awaited."""
