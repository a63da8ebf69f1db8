"""The server of Celery's messages, in the form that its transport expects, without credentials.

Celery writes its broker's URL to logs and answers, and splits it at characters that a password may
have. So the transport asks for the credentials when it connects.
"""

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from redis import CredentialProvider
from redis.connection import parse_url

from app.config import get_settings


class BrokerCredentials(CredentialProvider):
    """The user and the password of the broker's server."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the arguments of AUTH."""
        options = _options(get_settings().celery_url)
        password = str(options["password"])
        return (str(options["username"]), password) if options.get("username") else (password,)


def broker_settings(url: str) -> dict[str, Any]:
    """Return the settings by which Celery finds a server.

    Args:
        url: A URL as the library takes it, but not of a cluster.

    Returns:
        `broker_url`, `broker_use_ssl` and `broker_transport_options`.
    """
    query = dict(parse_qsl(urlsplit(url).query))
    tls = {name: value for name, value in query.items() if name.startswith("ssl_")}
    if url.startswith("rediss"):
        tls.setdefault("ssl_cert_reqs", "required")
    found: dict[str, Any] = {"broker_url": broker_url(url), "broker_transport_options": {}}
    if "+sentinel:" in url:
        names = {name: query.get(f"sentinel_{name}") for name in ("username", "password")}
        of_sentinel: dict[str, Any] = {name: value for name, value in names.items() if value}
        found["broker_transport_options"] = {
            "master_name": _service_of(url)[0],
            "sentinel_kwargs": of_sentinel | ({"ssl": True} | tls if tls else {}),
        }
        if tls:
            found["broker_use_ssl"] = tls
    return found


def broker_url(url: str) -> str:
    """Return the URL of the broker, on the same server and database.

    Args:
        url: As for `broker_settings`.
    """
    parts, options = urlsplit(url), _options(url)
    query = {name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}
    if parts.scheme == "rediss":
        query.setdefault("ssl_cert_reqs", "required")
    if options.get("password"):
        query["credential_provider"] = f"{__name__}.{BrokerCredentials.__name__}"
    database = database_of(url)
    if parts.scheme == "unix":
        query["virtual_host"] = str(database)
        return f"redis+socket://{quote(options['path'])}?{urlencode(query)}"
    if parts.scheme.endswith("+sentinel"):
        query = {name: value for name, value in query.items() if not name.startswith("ssl_")}
        first, *others = parts.netloc.rpartition("@")[2].split(",")
        end = f"/{database}" + (f"?{urlencode(query)}" if query else "")
        hosts = [_with_port(first) + end, *(_with_port(other) for other in others)]
        return ";".join(f"sentinel://{host}" for host in hosts)
    host = str(options.get("host") or "127.0.0.1")
    host = f"[{host}]" if ":" in host else quote(host)
    address = f"{parts.scheme}://{host}:{options.get('port') or 6379}/{database}"
    return f"{address}?{urlencode(query)}" if query else address


def database_of(url: str) -> int:
    """Return the number of the database in a URL."""
    return int(_options(url).get("db") or 0)


def _with_port(host: str) -> str:
    return host if urlsplit(f"//{host}").port else f"{host}:26379"


def _service_of(url: str) -> tuple[str, str]:
    """The name of a service that Sentinels know, and the database behind it."""
    service, _, database = urlsplit(url).path.strip("/").partition("/")
    return service, database


def _options(url: str) -> dict[str, Any]:
    """The options of connections to the server, or to the first host of several."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if kind == "sentinel":
        credentials, at, hosts = parts.netloc.rpartition("@")
        netloc, path = f"{credentials}{at}{hosts.partition(',')[0]}", f"/{_service_of(url)[1]}"
        url = urlunsplit((scheme, netloc, path, parts.query, ""))
    return dict(parse_url(url))  # type: ignore[no-untyped-call]
