"""Security middleware: checks host, token, origin, size, content type and rate of requests.

It is pure ASGI, so that event streams pass through unbuffered.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.web.problems import problem
from sagastream.web.rate_limits import RateLimiter, client_of
from sagastream.web.tokens import has_secret, has_token, hostname_of

MAX_BODY_BYTES = 64 * 1024
# Of the path and the query of an address.
MAX_TARGET_BYTES = 8 * 1024
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
_TOO_LARGE = f"the body exceeds {MAX_BODY_BYTES} bytes"
# Wrong tokens of one client that are answered as such, per second.
_WRONG_TOKENS_PER_S = 5.0
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PUBLIC_PATHS = frozenset({"/healthz", "/login", "/api/session"})
_PUBLIC_FOLDER = "/static/"
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


def hosts_of(settings: Settings) -> tuple[str, ...]:
    """The names by which clients may address the server; empty for any name.

    Those of WEB_HOSTS. If there are none, a server without a token has the names of loopback.
    """
    names = tuple(filter(None, (name.strip() for name in settings.web_hosts.split(","))))
    if names:
        return names
    return () if settings.web_token else (*_LOOPBACK_NAMES, settings.web_host)


class SecurityMiddleware:
    """Refuses requests that must not reach the application.

    Args:
        app: The application.
        token: The bearer token that every request must have; '' for none.
        hosts: The names by which clients may address this server; empty for any. Without this
            check the page of a foreign name that resolves to this server could read all answers
            (DNS rebinding).
        per_s: Changing requests allowed per client and second.
    """

    def __init__(
        self, app: ASGIApp, *, token: str, hosts: Collection[str] = (), per_s: float
    ) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(name.lower() for name in hosts)
        self._limiter = RateLimiter(per_s)
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

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal:
            await refusal(scope, receive, send_with_headers)
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise TooLarge(413, _TOO_LARGE)
            return message

        await self._app(scope, receive_limited, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
            return problem(414, "UriTooLong", f"the address exceeds {MAX_TARGET_BYTES} bytes")
        sizes = [len(name) + len(value) for name, value in scope["headers"]]
        if len(sizes) > MAX_HEADERS or sum(sizes) > MAX_HEADER_BYTES:
            why = f"the headers exceed {MAX_HEADERS} lines or {MAX_HEADER_BYTES} bytes"
            return problem(431, "HeadersTooLarge", why)
        if self._hosts and hostname_of(headers.get("host", "")) not in self._hosts:
            host = headers.get("host", "")[:200]
            return problem(421, "UnknownHost", f"{host!r} is no name of this server; see WEB_HOSTS")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not self._is_authorized(path, headers):
            if has_secret(headers, cookie=COOKIE) and not self._guesses.take(client_of(scope)):
                return problem(429, "TooManyRequests", "too many wrong tokens; wait a moment")
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                return RedirectResponse(f"{scope.get('root_path', '')}/login", 303)
            return problem(401, "Unauthorized", "send the token as: Authorization: Bearer TOKEN")
        refusal = self._refusal_of_change(scope, headers)
        return problem(*refusal) if refusal else None

    def _is_authorized(self, path: str, headers: Headers) -> bool:
        if not self._token or path in _PUBLIC_PATHS or path.startswith(_PUBLIC_FOLDER):
            return True
        return has_token(headers, self._token, cookie=COOKIE)

    def _refusal_of_change(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        if scope["method"] in _SAFE_METHODS:
            return None
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != headers.get("host"):
            return 403, "CrossOrigin", f"{origin[:200]} is not the origin of this server"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return 413, "TooLarge", _TOO_LARGE
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            return 415, "NotJson", "send application/json"
        if not self._limiter.take(client_of(scope)):
            return 429, "TooManyRequests", "wait a moment, then try again"
        return None


class TooLarge(HTTPException):
    """The body of a request exceeds the limit."""
