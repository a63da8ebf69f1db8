"""Tokens of a web server, and the names by which clients address it."""

import hashlib
import hmac
import math
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

_TOKEN_BITS = 128
# The alphabets of random tokens: of hex digits, of letters and digits of one case, of all.
_ALPHABETS = (
    (frozenset("0123456789"), 10),
    (frozenset("0123456789abcdef"), 16),
    (frozenset("0123456789abcdefghijklmnopqrstuvwxyz"), 36),
)
_LARGEST_ALPHABET = 64
# A random token of 128 bits has more different characters than this, but for one in a billion.
_FEW_CHARACTERS = 5


def session_cookie_of(token: str) -> str:
    """Derive the session cookie from the token, so that no browser stores the token itself."""
    return hmac.new(token.encode(), b"session", hashlib.sha256).hexdigest()


def equal_secrets(one: str, other: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def has_token(headers: Headers, token: str, *, cookie: str) -> bool:
    """Whether a request has the token: as a bearer, or by its session cookie.

    Args:
        headers: The headers of the request.
        token: The token.
        cookie: The name of the session cookie.
    """
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    bearer = bearer.strip() if scheme.lower() == "bearer" else ""
    session = cookie_parser(headers.get("cookie", "")).get(cookie, "")
    return equal_secrets(bearer, token) or equal_secrets(session, session_cookie_of(token))


def has_secret(headers: Headers, *, cookie: str) -> bool:
    """Whether a request has a token or a session cookie, right or wrong."""
    return "authorization" in headers or cookie in cookie_parser(headers.get("cookie", ""))


def is_guessable(token: str) -> bool:
    """Return whether a token cannot have 128 random bits."""
    used = set(token.lower() if token.isupper() else token)
    sizes = [size for alphabet, size in _ALPHABETS if used <= alphabet]
    bits = len(token) * math.log2(min(sizes, default=_LARGEST_ALPHABET))
    return bits < _TOKEN_BITS or len(used) <= _FEW_CHARACTERS


def hostname_of(host: str) -> str:
    """The name in a Host header, without the port and the brackets of an IPv6 address."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
