"""URLs of servers: what each form means, and which are refused."""

import pytest

from sagastream import Bus
from sagastream._redis.address import Address, parse_url
from sagastream._telemetry.operations import server_of


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "plain"),
    [
        ("redis://h", "server", [("h", 6379)], "redis://h:6379"),
        ("redis://u:p%40@h:1/3", "server", [("h", 1)], "redis://u:p%40@h:1/3"),
        ("rediss://[::1]:2/0?ssl_cert_reqs=none", "server", [("::1", 2)], None),
        (
            "redis+sentinel://:pw@a,b:2/mine/4",
            "sentinel",
            [("a", 26379), ("b", 2)],
            "redis://:pw@a:26379/4",
        ),
        (
            "rediss+cluster://u:pw@a:1,b:2",
            "cluster",
            [("a", 1), ("b", 2)],
            "rediss://u:pw@a:1",
        ),
    ],
)
def test_a_url_is_read(
    url: str, kind: str, hosts: list[tuple[str, int]], plain: str | None
) -> None:
    """Hosts, and the URL of one server with the same credentials and options."""
    found = parse_url(url)
    assert found.kind == kind
    assert [(each.host, each.port) for each in found.hosts] == hosts
    assert plain in {None, found.plain}


def test_sentinels_have_credentials_of_their_own() -> None:
    """`sentinel_password` is for them; user, password and database of the URL for the server."""
    found = parse_url(
        "redis+sentinel://u:pw@a:1,b:2/mine/4?sentinel_username=s&sentinel_password=x%40y"
    )
    server = found.options(Address("n", 7))
    sentinel = found.sentinel_options(Address("b", 2))
    assert (server.host, server.port, server.username, server.password, server.db) == (
        *("n", 7, "u", "pw"),
        4,
    )
    assert (sentinel.host, sentinel.port, sentinel.username, sentinel.password, sentinel.db) == (
        *("b", 2, "s", "x@y"),
        0,
    )
    assert found.service == "mine"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://h", "redis://host"),
        ("h:6379", "redis://host"),
        ("", "redis://host"),
        ("redis+sentinel://h:1", "names no service"),
        ("redis+sentinel://h:1/", "names no service"),
        ("redis+sentinel://h:1/mine/x", "a database that is not a number"),
        ("redis://a,b/0", "several hosts"),
        ("redis://h/abc", "a database that is not a number"),
        ("redis://h:port/0", "a port that is invalid"),
        ("redis://h:70000/0", "a port that is invalid"),
        ("redis+cluster://h/1", "has none but 0"),
        ("redis://h?sentinel_password=x", "belong to redis"),
        ("redis+sentinel://h/mine?sentinel_db=1", "sentinel_username, sentinel_password"),
        ("redis+other://h", "redis://host"),
    ],
)
def test_a_wrong_url_is_refused_when_the_bus_is_made(url: str, named: str) -> None:
    """The error says what is wrong, and has no password."""
    with pytest.raises(ValueError, match=named):
        Bus(url)


def test_no_address_has_a_password() -> None:
    """Neither those in errors nor those in spans."""
    url = "redis+sentinel://u:secret@a:1,b:2/mine/4?sentinel_password=secret"
    assert Bus(url).address == "redis+sentinel://a:1,b:2/mine/4"
    assert "secret" not in repr(Bus(url))
    assert server_of(url) == (("server.address", "a"), ("server.port", 1))


@pytest.mark.parametrize(
    "options",
    [
        {"durability": "always"},
        {"replicas": 0},
        {"replicas": True},
        {"replicated_within_s": 0},
        {"replicated_within_s": float("inf")},
        {"replicated_within_s": float("nan")},
    ],
)
def test_a_wrong_durability_is_refused(options: dict[str, object]) -> None:
    """The error names the option."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Bus("redis://h", **({"durability": "replicated"} | options))  # type: ignore[arg-type]
