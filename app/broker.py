"""The URL of the server in the form that Celery's transport expects, without credentials.

Celery writes its broker's URL to logs and answers, and splits it at characters that a password may
have. So the transport asks for the credentials when it connects.
"""

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redis import CredentialProvider
from redis.connection import parse_url

from app.config import get_settings


class BrokerCredentials(CredentialProvider):
    """The user and the password in REDIS_URL."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the arguments of AUTH."""
        options = _options(get_settings().redis_url)
        password = str(options["password"])
        return (str(options["username"]), password) if options.get("username") else (password,)


def broker_url(redis_url: str) -> str:
    """Return the URL of the broker, on the same server and database.

    Args:
        redis_url: A URL as the library takes it.
    """
    parts, options = urlsplit(redis_url), _options(redis_url)
    query = {name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}
    if parts.scheme == "rediss":
        query.setdefault("ssl_cert_reqs", "required")
    if options.get("password"):
        query["credential_provider"] = f"{__name__}.{BrokerCredentials.__name__}"
    database = database_of(redis_url)
    if parts.scheme == "unix":
        query["virtual_host"] = str(database)
        return f"redis+socket://{quote(options['path'])}?{urlencode(query)}"
    host = str(options.get("host") or "127.0.0.1")
    host = f"[{host}]" if ":" in host else quote(host)
    address = f"{parts.scheme}://{host}:{options.get('port') or 6379}/{database}"
    return f"{address}?{urlencode(query)}" if query else address


def database_of(redis_url: str) -> int:
    """Return the number of the database in a URL."""
    return int(_options(redis_url).get("db") or 0)


def _options(redis_url: str) -> dict[str, Any]:
    return dict(parse_url(redis_url))  # type: ignore[no-untyped-call]
