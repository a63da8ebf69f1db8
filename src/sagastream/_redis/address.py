"""Server URLs: one server, a service that Sentinels watch, or a cluster.

redis-py reads credentials, TLS options and the database from a URL; this module reads the hosts.
No error and no representation shows a password.
"""

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from redis.asyncio import Connection as UrlOptions
from redis.asyncio import ConnectionPool

from sagastream.errors import InvalidMessage

_FORMS = (
    "redis://host:port/db, rediss://host:port/db, unix:///path, "
    "redis+sentinel://host:port,host:port/service/db or redis+cluster://host:port,host:port"
)
_HINT = "percent-encode the characters @ : / ? # [ ] % in a user name and a password"
_OF_SENTINEL, _CREDENTIALS = "sentinel_", ("username", "password")
_SENTINEL_PORT, _PORT = 26379, 6379

Kind = Literal["server", "sentinel", "cluster"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """A URL that was read.

    Attributes:
        kind: Whether the hosts are one server, Sentinels, or some nodes of a cluster.
        hosts: Where they listen; empty for a unix socket.
        plain: The URL of one server with the same credentials, options and database.
        service: The name of the primary that Sentinels know.
        sentinel: As `plain`, for Sentinels; '' without them.
        redacted: The URL without user, password and query.
    """

    kind: Kind
    hosts: tuple[Address, ...]
    plain: str = field(repr=False)
    service: str
    sentinel: str = field(repr=False)
    redacted: str

    def options(self, address: Address | None = None) -> UrlOptions:
        """The options of connections to a server, as a connection of redis-py that is never opened.

        Args:
            address: The server; None for that of `plain`.
        """
        return _options(self.plain, address)

    def sentinel_options(self, address: Address) -> UrlOptions:
        """As `options`, for a Sentinel."""
        return _options(self.sentinel, address)


def _options(url: str, address: Address | None) -> UrlOptions:
    options = ConnectionPool.from_url(url, driver_info=None).make_connection()  # type: ignore[no-untyped-call]
    if address:
        options.host, options.port = address.host, address.port
    return options  # type: ignore[no-any-return]


def parse_url(url: str) -> ServerUrl:
    """Read a URL.

    Raises:
        InvalidMessage: It has no form that is supported, or is not clear. The message does not
            repeat it, as it may have a password; nor does the context of the error.
    """
    try:
        read: ServerUrl | InvalidMessage = _read(url)
        if isinstance(read, ServerUrl):
            read.options()
    except InvalidMessage as error:
        read = error
    except (ValueError, TypeError):
        read = InvalidMessage("url", f"has an option or a port that is invalid; {_HINT}")
    if isinstance(read, InvalidMessage):
        raise read
    return read


def _read(url: str) -> ServerUrl:
    if not _is_clear(url):
        raise InvalidMessage("url", f"has an @ behind its host; {_HINT}")
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if parts.scheme == "unix":
        redacted = urlunsplit(("unix", "", parts.path, "", ""))
        return ServerUrl("server", (), url, "", "", redacted)
    if scheme not in {"redis", "rediss"} or kind not in {"", "sentinel", "cluster"}:
        raise InvalidMessage("url", f"must have one of these forms: {_FORMS}")
    credentials, _, netloc = parts.netloc.rpartition("@")
    default_port = _SENTINEL_PORT if kind == "sentinel" else _PORT
    hosts = tuple(_address(text, default_port) for text in netloc.split(","))
    path, service = parts.path, ""
    query = [pair for pair in parse_qsl(parts.query) if not pair[0].startswith(_OF_SENTINEL)]
    of_sentinel = {
        name: value for name, value in parse_qsl(parts.query) if name.startswith(_OF_SENTINEL)
    }
    if of_sentinel.keys() - {"sentinel_username", "sentinel_password"}:
        raise InvalidMessage("url", "has other options than sentinel_username, sentinel_password")
    if kind == "sentinel":
        service, _, database = path.strip("/").partition("/")
        if not service:
            raise InvalidMessage("url", f"names no service; its form is {_FORMS}")
        path = f"/{database}" if database else ""
    elif len(hosts) > 1 and kind != "cluster":
        raise InvalidMessage("url", f"has several hosts; its form is {_FORMS}")
    if kind == "cluster" and path.strip("/") not in {"", "0"}:
        raise InvalidMessage("url", "names a database, and a cluster has none but 0; leave it out")
    if of_sentinel and kind != "sentinel":
        raise InvalidMessage("url", "has sentinel_ options, which belong to redis+sentinel URLs")
    if not re.fullmatch(r"(/\d*)?", path):
        raise InvalidMessage("url", f"has a database that is not a number; {_HINT}")

    def url_of(userinfo: str, path: str) -> str:
        netloc = f"{userinfo}@{hosts[0]}" if userinfo else str(hosts[0])
        return urlunsplit((scheme, netloc, path, urlencode(query), ""))

    user, password = (quote(of_sentinel.get(_OF_SENTINEL + n, ""), safe="") for n in _CREDENTIALS)
    sentinel = url_of(f"{user}:{password}" if password else "", "") if kind == "sentinel" else ""
    everywhere = ",".join(map(str, hosts))
    redacted = urlunsplit((parts.scheme, everywhere, parts.path, "", ""))
    plain = url_of(credentials, path)
    return ServerUrl(kind or "server", hosts, plain, service, sentinel, redacted)  # type: ignore[arg-type]


def _is_clear(url: str) -> bool:
    """Whether the password ends where a parser finds its end.

    In `redis://user:1/2@host` a parser takes `1` for a port, and the rest for a path, which is
    shown in errors.
    """
    parts = urlsplit(url)
    has_name = "@" in parts.netloc or (parts.scheme == "unix" and not parts.netloc)
    return has_name or "@" not in url


def _address(text: str, default_port: int) -> Address:
    parts = urlsplit(f"//{text}")
    return Address(parts.hostname or "localhost", parts.port or default_port)
