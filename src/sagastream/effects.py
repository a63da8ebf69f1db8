"""Effect policies: how a handler's effect stays single, though the handler may run twice.

`idempotent` (the default): running it twice has the effect of running it once. `atomic`: the
handler returns its writes; the server does them in one function with its reply, or not at all.
`at_most_once`: before a second run, `reconcile` is asked for the result of the first.
"""

from dataclasses import dataclass
from typing import Literal

from sagastream.message import Payload

Effect = Literal["idempotent", "atomic", "at_most_once"]


@dataclass(frozen=True, slots=True)
class Write:
    """One value to write, if it is still what the handler read.

    Attributes:
        key: A hash, or a plain value if `field` is None; without the namespace.
        value: The new text; None to delete it.
        expected: The text that must be there; None if the key or field must be missing.
        field: The hash's field.
    """

    key: str
    value: str | None
    expected: str | None
    field: str | None = None

    def flat(self, key: str) -> list[str]:
        """The write as arguments of the server's function, for a key with its namespace."""
        return [
            key,
            *_optional(self.field),
            *_optional(self.expected),
            *_optional(self.value),
        ]


@dataclass(frozen=True, slots=True)
class Atomic:
    """The return value of an `atomic` handler: its result, and the writes that are its effect.

    All expected values are checked before the first write. If one has changed, nothing is
    written and the handler runs again.
    """

    result: Payload
    writes: tuple[Write, ...]


def _optional(text: str | None) -> tuple[str, str]:
    return ("0", "") if text is None else ("1", text)
