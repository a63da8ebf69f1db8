"""The URL of the server: what is refused, where the commands find it, and that no password is shown."""

import sys
import traceback
from pathlib import Path

import pytest

from sagastream import Bus, InvalidMessage
from sagastream._redis.address import parse_url
from sagastream.cli.main import main
from sagastream.cli.server_address import DEFAULT, server_url
from sagastream.testing import EmbeddedServer

_SECRET = "s3cret"  # noqa: S105 - of no server


@pytest.mark.parametrize(
    "url",
    [
        *("", "s3cret", "u:s3cret@h:1/0", "http://u:s3cret@h", "redis://u:s3cret@h:x/0"),
        *(f"redis://u:{start}s3cret@h:1/0" for start in ("/", "#", "?", "12/", "12#", "12?", "[")),
        *("redis://u:s3cret@h:99999/0", "redis://u:s3cret@[::1/0", "unix://u:12/s3cret@/x.sock"),
        *("redis://u:s3cret", "redis+sentinel://h:s3cret/main", "redis+sentinel://u:s3cret@h"),
        *("redis://h/0?password=s3cret&db=x", "redis://h/0?unknown=s3cret"),
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    """Neither the message nor the context of the error has a part of it."""
    with pytest.raises(InvalidMessage, match=r"^url: ") as caught:
        Bus(url)
    assert caught.value.field == "url"
    assert _SECRET not in "".join(traceback.format_exception(caught.value, limit=0))


@pytest.mark.parametrize(
    "url",
    [
        *("redis://", "redis://h", "redis://:s3cret@h:1/2", "redis://u:a%2Fb%40c@[::1]:1/0"),
        *("rediss://u:s3cret@h?ssl_cert_reqs=none", "redis://h?password=s3cret&db=1"),
        "redis+sentinel://u:s3cret@h:1,i:2/main/1?sentinel_password=s3cret",
        "redis+cluster://u:s3cret@h:1,i:2",
        *("unix:///tmp/a@b.sock", "unix://u:s3cret@/tmp/x.sock?db=2"),
    ],
)
def test_a_url_shows_no_password(url: str) -> None:
    """It is accepted; what represents it has no password."""
    bus = Bus(url)
    for shown in (bus.address, repr(bus), repr(parse_url(url))):
        assert _SECRET not in shown


def test_the_commands_find_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the argument, the environment, a file, or the default."""
    path = tmp_path / "url"
    path.write_text("redis://:s3cret@file/0\n\n")
    assert server_url(None) == DEFAULT
    monkeypatch.setenv("REDIS_URL_FILE", str(path))
    assert server_url(None) == "redis://:s3cret@file/0"
    assert server_url("unix:///x") == "unix:///x"
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@variable/0")
    with pytest.raises(InvalidMessage, match="REDIS_URL is set, too"):
        server_url(None)
    monkeypatch.setenv("REDIS_URL_FILE", "")
    assert server_url(None) == "redis://:s3cret@variable/0"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_file_without_a_url_is_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
) -> None:
    """In one line."""
    path = tmp_path / "url"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("REDIS_URL_FILE", str(path))
    assert main(["memory"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sagastream: REDIS_URL_FILE: ")
    assert str(path) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("redis://u:s3cret@127.0.0.1:1/0", True),
        ("redis://127.0.0.1:1/0?password=s3cret", True),
        ("redis://u:[s3cret@127.0.0.1:1/0", True),
        ("redis://u@127.0.0.1:1/0", False),
        ("unix:///nowhere", False),
    ],
)
def test_a_password_among_the_arguments_is_warned_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str, *, warns: bool
) -> None:
    """At a terminal; the warning names the variables to use, and does not show it."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["--url", url, "--namespace", "a", "acl", "reader"])
    error = capsys.readouterr().err
    assert ("REDIS_URL_FILE" in error) == warns
    assert _SECRET not in error


@pytest.mark.blocking
def test_a_command_uses_the_server_of_the_environment(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an argument."""
    monkeypatch.setenv("REDIS_URL", server.url)
    assert main(["memory"]) == 0
    assert "MB" in capsys.readouterr().out
