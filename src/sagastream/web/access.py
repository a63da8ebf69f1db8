"""Refuse requests that must not reach the page: foreign hosts and origins, no token, too much.

It is pure ASGI. What a form changes is protected twice: by the origin, and by a token in the form
that fits a cookie.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Collection
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sagastream.web.rate_limits import RateLimiter, client_of
from sagastream.web.tokens import equal_secrets, has_secret, has_token, hostname_of

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SESSION_COOKIE = "sagastream-session"
FORM_COOKIE = "sagastream-form"
_MAX_BODY_BYTES = 64 * 1024
# Of the path and the query of an address.
_MAX_TARGET_BYTES = 8 * 1024
_MAX_FORM_FIELDS = 20
_WRONG_TOKENS_PER_S = 5.0
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PUBLIC_PATHS = frozenset({"/healthz", "/login", "/style.css", "/icon.svg"})
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

# Makes the page that says why a request is refused, of a status and the reason.
Refuse = Callable[[int, str], Response]


class AccessMiddleware:
    """Refuses requests that must not reach the application.

    Args:
        app: The application.
        token: The token that every request must have, by its cookie or as a bearer; '' for none.
        hosts: The names by which clients may address this server; empty for any. Without this
            check the page of a foreign name that resolves to this server could read all answers
            (DNS rebinding).
        refuse: Makes the answer to a refused request.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str], refuse: Refuse) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(name.lower() for name in hosts)
        self._refuse = refuse
        self._guesses = RateLimiter(_WRONG_TOKENS_PER_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        answer = self._refusal(Request(scope)) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        scope, headers = request.scope, request.headers
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > _MAX_TARGET_BYTES:
            return self._refuse(414, f"the address exceeds {_MAX_TARGET_BYTES} bytes")
        if self._hosts and hostname_of(headers.get("host", "")) not in self._hosts:
            name = headers.get("host", "")[:200]
            why = f"{name!r} is not a name of this server; allow it with --allow-host"
            return self._refuse(421, why)
        if not self._is_authorized(scope["path"], headers):
            has_guess = has_secret(headers, cookie=SESSION_COOKIE)
            if has_guess and not self._guesses.take(client_of(scope)):
                return self._refuse(429, "too many wrong tokens; wait a moment")
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                return RedirectResponse("/login", 303)
            return self._refuse(401, "send the token as: Authorization: Bearer TOKEN")
        return self._refusal_of_change(request)

    def _is_authorized(self, path: str, headers: Headers) -> bool:
        if not self._token or path in _PUBLIC_PATHS:
            return True
        return has_token(headers, self._token, cookie=SESSION_COOKIE)

    def _refusal_of_change(self, request: Request) -> Response | None:
        if request.method in _SAFE_METHODS:
            return None
        headers = request.headers
        origin = headers.get("origin")
        is_foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
        if is_foreign or headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            return self._refuse(403, "the form is from another site, and changes nothing")
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/x-www-form-urlencoded":
            return self._refuse(415, "send a form")
        return None


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
    """The fields of a form.

    Raises:
        HTTPException: 413 or 400, it is too large, or malformed.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY_BYTES:
            raise HTTPException(413, f"the form exceeds {_MAX_BODY_BYTES} bytes")
    try:
        return dict(
            parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_FORM_FIELDS,
            )
        )
    except ValueError as error:
        raise HTTPException(400, "the form is malformed") from error
