"""Forms that change something: what they ask, their fields, and a token that only a form of this page has."""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

from sagastream.web.tokens import equal_secrets

FORM_COOKIE = "sagastream-form"
_MAX_FIELDS = 20


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


class FormTokens:
    """Tokens in forms, so that only a form of this page can change something.

    Args:
        token: The token of the server; with one, forms stay valid when the server restarts.
    """

    def __init__(self, token: str) -> None:
        self._secret = (token or secrets.token_hex()).encode()

    def of(self, cookie: str) -> str:
        """The token that fits a cookie."""
        return hmac.new(self._secret, b"form " + cookie.encode(), hashlib.sha256).hexdigest()

    def check(self, request: Request, form: dict[str, str]) -> None:
        """Check a form.

        Raises:
            HTTPException: 403, its token does not fit.
        """
        cookie = request.cookies.get(FORM_COOKIE, "")
        if not cookie or not equal_secrets(form.get("form_token", ""), self.of(cookie)):
            raise HTTPException(
                403, "the form is out of date: go back, reload it, and send it again"
            )


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. `AccessMiddleware` limits its size.

    Raises:
        HTTPException: 413 or 400, it is too large, or malformed.
    """
    body = await request.body()
    try:
        return dict(
            parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_FIELDS,
            )
        )
    except ValueError as error:
        raise HTTPException(400, "the form is malformed") from error
