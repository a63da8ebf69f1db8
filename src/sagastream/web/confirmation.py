"""What a page asks an operator before an action, and the functions that an action consists of."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a page asks an operator to confirm.

    Attributes:
        title: What is done, as a heading and on the button.
        text: What follows from it.
        back: The path of the page that leaves everything as it is.
        fields: What the form sends back.
        here: The section of the page in the navigation.
        asks_reason: Whether it asks why.
        asks_payload: Whether it asks for a JSON object.
    """

    title: str
    text: str
    back: str
    fields: Mapping[str, str]
    here: str
    asks_reason: bool = False
    asks_payload: bool = False


# Makes the question, from the parameters of the address.
Confirm = Callable[[Mapping[str, str]], Awaitable[Confirmation]]
# Does it, from the fields of the form; returns the address to show next.
Do = Callable[[Mapping[str, str]], Awaitable[str]]
