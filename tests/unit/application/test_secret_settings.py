"""Secrets in files, the broker's URL, and settings that show no secret."""

import stat
import traceback
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from celery import Celery
from pydantic import ValidationError
from typer.testing import CliRunner

from app import config
from app.broker import BrokerCredentials, broker_settings, broker_url, database_of
from app.cli.main import app as cli
from app.cli.serve import _new_token
from app.config import Settings, choose_settings, explain, get_settings, settings_or_exit
from sagastream.testing import EmbeddedServer
from sagastream.web.tokens import is_guessable
from tests.plain_client import connect

_URL = "redis://ops:s3cret@h:1/0"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read anew."""
    monkeypatch.setattr(config, "_chosen", {})
    monkeypatch.setattr("app.cli.base.configure", lambda settings, service: None)
    for name in ("REDIS_URL", "WEB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    get_settings.cache_clear()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """A file with a URL, and another line."""
    path = tmp_path / "url"
    path.write_text(f"{_URL}\n# of the server in the cellar\n")
    return path


def test_a_secret_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, secret_file: Path) -> None:
    """Children get what was read; they do not read the file again."""
    monkeypatch.setenv("REDIS_URL_FILE", str(secret_file))
    settings = get_settings()
    assert settings.redis_url == _URL
    assert "redis_url" in settings.model_fields_set, "no other server is started"
    environment = settings.environment()
    assert environment["REDIS_URL"] == _URL
    assert "REDIS_URL_FILE" not in environment
    assert choose_settings(redis_url="redis://other").redis_url == "redis://other"


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_file_without_a_secret_is_named(
    monkeypatch: pytest.MonkeyPatch, secret_file: Path, content: str | None
) -> None:
    """In one line."""
    if content is None:
        secret_file.unlink()
    else:
        secret_file.write_text(content)
    monkeypatch.setenv("REDIS_URL_FILE", str(secret_file))
    result = CliRunner().invoke(cli, ["list"])
    assert result.exit_code == 2
    assert result.stderr.startswith("mission: REDIS_URL_FILE: ")
    assert result.stderr.count("\n") == 1


def test_a_secret_is_given_once(monkeypatch: pytest.MonkeyPatch, secret_file: Path) -> None:
    """Of two, nobody could say which one is used."""
    monkeypatch.setenv("REDIS_URL_FILE", str(secret_file))
    monkeypatch.setenv("REDIS_URL", "redis://other")
    with pytest.raises(ValidationError) as caught:
        get_settings()
    assert explain(caught.value) == "REDIS_URL and REDIS_URL_FILE: give one of them"
    monkeypatch.setenv("REDIS_URL", "")
    assert get_settings().redis_url == _URL


def test_settings_show_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither as text, nor in the error of a wrong one."""
    shown = Settings(redis_url=_URL, web_token="s3cret", otel_exporter_otlp_headers="key=s3cret")
    assert "s3cret" not in repr(shown) + str(shown)
    monkeypatch.setenv("REDIS_URL", "redis://ops:s3cret/x@h:1/0")
    with pytest.raises(ValidationError) as caught:
        get_settings()
    error = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in error
    with pytest.raises(SystemExit) as exited:
        settings_or_exit()
    assert exited.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("REDIS_URL: ")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "address", "query"),
    [
        ("redis://h:1/2", "redis://h:1/2", set()),
        ("redis://", "redis://127.0.0.1:6379/0", set()),
        ("redis://u:p;w%2F@[::1]:1/2", "redis://[::1]:1/2", {"credential_provider"}),
        ("redis://h?db=3&password=p", "redis://h:6379/3", {"credential_provider"}),
        ("rediss://u:p@h", "rediss://h:6379/0", {"credential_provider", "ssl_cert_reqs"}),
        ("unix:///a/b.sock", "redis+socket:///a/b.sock", {"virtual_host"}),
        (
            "unix://u:p@/a.sock?db=2",
            "redis+socket:///a.sock",
            {"credential_provider", "virtual_host"},
        ),
    ],
)
def test_the_broker_is_the_same_server(url: str, address: str, query: set[str]) -> None:
    """At the same database; its URL has no credentials."""
    parts = urlsplit(broker_url(url))
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == address
    assert parse_qs(parts.query).keys() == query


def test_the_broker_is_found_by_sentinels() -> None:
    """Each Sentinel is an URL; what their transport needs beyond that are options."""
    url = "rediss+sentinel://u:p@a:1,b/mine/2?ssl_cert_reqs=none&sentinel_password=x"
    found = broker_settings(url)
    provider = "credential_provider=app.broker.BrokerCredentials"
    assert found["broker_url"] == f"sentinel://a:1/2?{provider};sentinel://b:26379"
    assert found["broker_use_ssl"] == {"ssl_cert_reqs": "none"}
    assert found["broker_transport_options"] == {
        "master_name": "mine",
        "sentinel_kwargs": {"password": "x", "ssl": True, "ssl_cert_reqs": "none"},
    }
    assert database_of(url) == 2
    choose_settings(redis_url=url)
    assert BrokerCredentials().get_credentials() == ("u", "p")


def test_a_cluster_needs_another_broker() -> None:
    """Celery cannot use one; the error names the setting."""
    with pytest.raises(ValidationError, match="BROKER_URL: Celery's messages cannot go through"):
        choose_settings(redis_url="redis+cluster://h:1")
    settings = choose_settings(redis_url="redis+cluster://h:1", broker_url="redis://b:2/0")
    assert settings.celery_url == "redis://b:2/0"


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("redis://u:p;w%2F@h:1/2", ("u", "p;w/")),
        ("redis://:p@h", ("p",)),
        (_URL, ("ops", "s3cret")),
    ],
)
def test_celery_asks_for_the_credentials(url: str, credentials: tuple[str, ...]) -> None:
    """Its transport does when it connects."""
    choose_settings(redis_url=url)
    assert BrokerCredentials().get_credentials() == credentials


@pytest.mark.blocking
def test_celery_uses_the_database_of_the_url(own_server: EmbeddedServer) -> None:
    """Also on a Unix socket, and with a user."""
    with connect(own_server.url) as client:
        client.acl_setuser(
            "ops",
            enabled=True,
            passwords=["+p;/"],
            keys=["*"],
            channels=["*"],
            categories=["+@all"],
        )
        choose_settings(redis_url=own_server.url.replace("://", "://ops:p%3B%2F@") + "?db=4")
        with Celery(broker=broker_url(get_settings().redis_url)) as sender:
            sender.send_task("work")
        client.select(4)
        assert client.llen("celery") == 1
        assert {each["user"] for each in client.client_list()} == {"default", "ops"}


def test_a_new_token_is_for_this_user_only(tmp_path: Path) -> None:
    """It is written to the file, not to the terminal."""
    path = tmp_path / "token"
    token = _new_token(path)
    assert path.read_text() == f"{token}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not is_guessable(token)
    with pytest.raises(SystemExit):
        _new_token(path)


def test_a_token_file_is_made_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Other commands need none; the next server uses the same."""
    path = tmp_path / "token"
    monkeypatch.setenv("WEB_TOKEN_FILE", str(path))
    assert get_settings().web_token == ""
    assert not path.exists()
    path.write_text("a" * 30)
    get_settings.cache_clear()
    assert get_settings().web_token == "a" * 30
