"""How a mission names its radio model, and how robots out of reach are treated.

`simulation.radio` holds the models.
"""

import math
from dataclasses import dataclass

FORMS = "perfect, ir2, or distance:METRES"
_MOST_M = 1e5


class BadRadio(ValueError):
    """A radio model is not one of the forms that exist, or its number is out of range."""


def check_radio(text: str) -> None:
    """Refuse a text that names no radio model.

    Raises:
        BadRadio: it has another form, or its number is out of range.
    """
    if text in {"perfect", "ir2"}:
        return
    kind, colon, number = text.partition(":")
    if kind != "distance" or not colon:
        raise BadRadio(f"radio: {text!r:.60} is no radio model; give {FORMS}")
    try:
        metres = float(number)
    except ValueError:
        metres = math.nan
    if not 0.0 <= metres <= _MOST_M:
        raise BadRadio(f"radio: {number!r:.30} is no distance from 0 to 100000; give {FORMS}")


@dataclass(frozen=True, slots=True)
class RadioSpec:
    """How robots out of reach are treated.

    Attributes:
        missing_after_s: seconds after which a robot that was not heard counts as missing: nothing
            is left to it any more. It takes part again when it is heard.
        shares: groups leave frontiers to absent robots; else each explores what is best for itself.
    """

    missing_after_s: float = 600.0
    shares: bool = True


DEFAULT_RADIO = RadioSpec()


@dataclass(frozen=True, slots=True)
class OutOfReach:
    """A robot whose orders cannot be delivered: it follows the last plan that it knows.

    Attributes:
        heard_s: mission second at which it was last heard.
        missing_at_s: mission second at which it counts as missing.
    """

    heard_s: float
    missing_at_s: float
