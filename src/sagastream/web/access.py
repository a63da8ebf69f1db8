"""Refuse requests that must not reach a page: foreign hosts and origins, no token, too much.

It is pure ASGI, so that event streams pass through unbuffered.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sagastream.web.rate_limits import RateLimiter, client_of
from sagastream.web.tokens import has_secret, has_token, hostname_of

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
MAX_BODY_BYTES = 64 * 1024
# Of the path and the query of an address.
MAX_TARGET_BYTES = 8 * 1024
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
_TOO_LARGE = f"the body exceeds {MAX_BODY_BYTES} bytes"
# Wrong tokens of one client that are answered as such, per second.
_WRONG_TOKENS_PER_S = 5.0
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

# Makes the answer to a refused request, of its status, the kind of error, and the reason.
Refuse = Callable[[Request, int, str, str], Response]


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may send what.

    Attributes:
        token: The token that every request must have, by its cookie or as a bearer; '' for none.
        hosts: The names by which clients may address this server; empty for any. Without this check
            the page of a foreign name that resolves to this server could read all answers (DNS
            rebinding).
        hosts_setting: How an operator allows another name.
        cookie: The name of the session cookie.
        public: The paths that need no token; one that ends in `/` is a folder.
        forms: The folder that takes forms; all other paths take JSON.
        policy: The content security policy.
        changes_per_s: Changing requests of one client per second; 0 for no limit.
    """

    token: str
    hosts: Collection[str]
    hosts_setting: str
    cookie: str
    public: frozenset[str]
    forms: str
    policy: str
    changes_per_s: float = 0.0

    def is_public(self, path: str) -> bool:
        """Whether a path needs no token."""
        return path in self.public or any(
            path.startswith(folder) for folder in self.public if folder.endswith("/")
        )


class AccessMiddleware:
    """Refuses requests that must not reach the application.

    Args:
        app: The application.
        rules: Who may send what.
        refuse: Makes the answer to a refused request.
    """

    def __init__(self, app: ASGIApp, *, rules: AccessRules, refuse: Refuse) -> None:
        self._app = app
        self._rules = rules
        self._hosts = frozenset(name.lower() for name in rules.hosts)
        self._headers = (*_HEADERS, (b"content-security-policy", rules.policy.encode()))
        self._refuse = refuse
        self._guesses = RateLimiter(_WRONG_TOKENS_PER_S)
        self._changes = RateLimiter(rules.changes_per_s) if rules.changes_per_s else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        if refusal := self._refusal(Request(scope)):
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

    def _refusal(self, request: Request) -> Response | None:
        rules, scope, headers = self._rules, request.scope, request.headers
        root = scope.get("root_path", "")
        path = scope["path"].removeprefix(root)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
            why = f"the address exceeds {MAX_TARGET_BYTES} bytes"
            return self._refuse(request, 414, "UriTooLong", why)
        sizes = [len(name) + len(value) for name, value in scope["headers"]]
        if len(sizes) > MAX_HEADERS or sum(sizes) > MAX_HEADER_BYTES:
            why = f"the headers exceed {MAX_HEADERS} lines or {MAX_HEADER_BYTES} bytes"
            return self._refuse(request, 431, "HeadersTooLarge", why)
        if self._hosts and hostname_of(headers.get("host", "")) not in self._hosts:
            name = headers.get("host", "")[:200]
            why = f"{name!r} is not a name of this server; allow it with {rules.hosts_setting}"
            return self._refuse(request, 421, "UnknownHost", why)
        is_authorized = rules.is_public(path) or has_token(
            headers, rules.token, cookie=rules.cookie
        )
        if rules.token and not is_authorized:
            has_guess = has_secret(headers, cookie=rules.cookie)
            if has_guess and not self._guesses.take(client_of(scope)):
                why = "too many wrong tokens; wait a moment"
                return self._refuse(request, 429, "TooManyRequests", why)
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                return RedirectResponse(f"{root}/login", 303)
            why = "send the token as: Authorization: Bearer TOKEN"
            return self._refuse(request, 401, "Unauthorized", why)
        refusal = self._refusal_of_change(request, path)
        return self._refuse(request, *refusal) if refusal else None

    def _refusal_of_change(self, request: Request, path: str) -> tuple[int, str, str] | None:
        if request.method in _SAFE_METHODS:
            return None
        headers = request.headers
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return 403, "CrossOrigin", f"{origin[:200]} is not the origin of this server"
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            return 403, "CrossOrigin", "the request is from a page of another site"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return 413, "TooLarge", _TOO_LARGE
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_form = path.startswith(self._rules.forms)
        if content_type != (_FORM if is_form else _JSON):
            return (415, "NotForm", "send a form") if is_form else (415, "NotJson", f"send {_JSON}")
        if self._changes and not self._changes.take(client_of(request.scope)):
            return 429, "TooManyRequests", "wait a moment, then try again"
        return None


class TooLarge(HTTPException):
    """The body of a request exceeds the limit."""
