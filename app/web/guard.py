"""What stands between a network and missions: token, origin, size and rate of requests.

Pure ASGI, so that streams of events pass through it unbuffered.
"""

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.problems import problem

MOST_BODY = 64 * 1024
_WORDS = f"a body may have {MOST_BODY} bytes"
_MOST_CLIENTS = 10_000
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN = frozenset({"/healthz", "/login", "/api/session"})
_OPEN_FOLDER = "/static/"
COOKIE = "session"
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


def session_of(token: str) -> str:
    """What a browser bears in place of the token, so that the token lies in no browser."""
    return hmac.new(token.encode(), b"session", hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Whether two secrets are the same, in a time that says nothing of them."""
    return hmac.compare_digest(one.encode(), other.encode())


class Buckets:
    """Allows each client so many requests a second, and as many at once.

    Args:
        per_s: How many.
        now: A clock in seconds.
    """

    def __init__(self, per_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._now = now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> bool:
        """Whether one more may pass."""
        now = self._now()
        left, since = self._left.pop(client, (self._per_s, now))
        left = min(self._per_s, left + (now - since) * self._per_s)
        self._left[client] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        return left >= 1


class Guard:
    """Refuses what must not reach the application.

    Args:
        app: The application.
        token: What a request must bear; '' for none.
        per_s: Requests a second of one client that change something.
    """

    def __init__(self, app: ASGIApp, *, token: str, per_s: float) -> None:
        self._app = app
        self._token = token
        self._buckets = Buckets(per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        headers = Headers(scope=scope)
        refused = self._refused(scope, headers)
        if refused:
            await refused(scope, receive, send_safely)
            return
        taken = 0

        async def receive_little() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MOST_BODY:
                raise TooLarge(413, _WORDS)
            return message

        await self._app(scope, receive_little, send_safely)

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        if not self._is_let_in(scope["path"], headers):
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                return RedirectResponse("/login", 303)
            return problem(401, "Unauthorized", "send the token as: Authorization: Bearer TOKEN")
        change = self._refused_change(scope, headers)
        return problem(*change) if change else None

    def _is_let_in(self, path: str, headers: Headers) -> bool:
        if not self._token or path in _OPEN or path.startswith(_OPEN_FOLDER):
            return True
        borne = headers.get("authorization", "").removeprefix("Bearer ")
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return same(borne, self._token) or same(cookie, session_of(self._token))

    def _refused_change(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        if scope["method"] in _SAFE:
            return None
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != headers.get("host"):
            return 403, "CrossOrigin", f"{origin[:200]} is not where this page comes from"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY:
            return 413, "TooLarge", _WORDS
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, "NotJson", "send application/json"
        client = (scope.get("client") or ("?",))[0]
        if not self._buckets.take(client):
            return 429, "TooManyRequests", "wait a moment, then try again"
        return None


class TooLarge(HTTPException):
    """A body has more bytes than any request needs."""
