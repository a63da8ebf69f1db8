"""The pages behind a proxy: what it forwards, a path below which they are, HEAD, spellings."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from app.cli.main import app as cli
from app.config import choose_settings, get_settings
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.web.api import make_app
from sagastream import Bus

pytestmark = pytest.mark.blocking

_ROOM = {"area": "room", "robots": 2}
_GIVEN = "kJ8vQ2xZr5TnYw3LpD7sBf"
_FORWARDED = {
    "host": "127.0.0.1:8080",
    "origin": "https://missions.example",
    "x-forwarded-host": "missions.example",
    "x-forwarded-proto": "https",
    "x-forwarded-for": "203.0.113.7",
}


@pytest.fixture(autouse=True)
def area(app_bus: Bus, tmp_path: Path) -> None:
    """A floor of one room."""
    floor = draw_rooms(1)
    save_map(tmp_path / "room.yaml", floor.grid, floor.frame)
    choose_settings(map_dir=tmp_path)


def _client(peer: str = "10.0.0.2", **settings: Any) -> httpx.AsyncClient:
    choose_settings(**({"web_hosts": "missions.example,127.0.0.1"} | settings))
    transport = httpx.ASGITransport(make_app(get_settings()), client=(peer, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client at the address of a named proxy."""
    async with _client(web_proxies="10.0.0.0/24, ::1") as made:
        yield made


async def test_a_change_through_a_proxy_with_tls_is_accepted(client: httpx.AsyncClient) -> None:
    """The browser's origin is compared with the host that the proxy forwards."""
    answer = await client.post("/api/missions", json=_ROOM, headers=_FORWARDED)
    assert answer.status_code == 202, answer.text
    foreign = _FORWARDED | {"origin": "https://elsewhere.example"}
    assert (await client.post("/api/missions", json=_ROOM, headers=foreign)).status_code == 403
    unknown = _FORWARDED | {"x-forwarded-host": "elsewhere.example"}
    assert (await client.get("/", headers=unknown)).status_code == 421


@pytest.mark.parametrize("proxies", ["", "10.0.0.3", "127.0.0.1"])
async def test_what_others_forward_is_not_believed(proxies: str) -> None:
    """Otherwise a page of a foreign name could invent the host."""
    async with _client(web_proxies=proxies, web_hosts="missions.example") as client:
        assert (await client.get("/", headers=_FORWARDED)).status_code == 421
    async with _client(web_proxies=proxies) as client:
        answer = await client.post("/api/missions", json=_ROOM, headers=_FORWARDED)
        assert answer.status_code == 403


async def test_a_session_behind_tls_is_for_tls_only(client: httpx.AsyncClient) -> None:
    """The cookie is `secure` as the browser's connection is."""
    answer = await client.post("/api/session", json={"token": "any"}, headers=_FORWARDED)
    assert "secure" in answer.headers["set-cookie"].lower()
    plain = _FORWARDED | {"x-forwarded-proto": "http", "origin": "http://missions.example"}
    answer = await client.post("/api/session", json={"token": "any"}, headers=plain)
    assert "secure" not in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("peer", ["10.0.0.2", "::ffff:10.0.0.2", "::1"])
async def test_clients_behind_a_proxy_are_told_apart(peer: str) -> None:
    """By the last address that is no proxy: what stands before it may be invented."""
    async with _client(peer, web_proxies="10.0.0.0/24,::1", web_requests_per_s=1.0) as client:

        async def status(forwarded: str) -> int:
            headers = _FORWARDED | {"x-forwarded-for": forwarded}
            return (
                await client.post("/api/session", json={"token": "x"}, headers=headers)
            ).status_code

        assert await status("203.0.113.7") == 200
        assert await status("198.51.100.1, 203.0.113.7, 10.0.0.9") == 429
        assert await status("198.51.100.1") == 200


@pytest.mark.parametrize("strips", [True, False])
async def test_all_addresses_are_below_the_root_path(strips: bool) -> None:
    """Pages, static files, redirects and the API, whether or not the proxy removes the path."""
    at = "" if strips else "/robots/control"
    async with _client(web_root_path="/robots/control", web_token=_GIVEN) as client:
        page = await client.get(f"{at}/", headers={"accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/robots/control/login")
        bearer = {"authorization": f"Bearer {_GIVEN}"}
        started = await client.post(f"{at}/api/missions", json=_ROOM, headers=bearer)
        location = started.headers["location"]
        assert location.startswith("/robots/control/api/missions/")
        saga_id = started.json()["saga_id"]
        for path in ("/", "/fleet", "/login", f"/missions/{saga_id}", "/missions/nobody"):
            shown = await client.get(f"{at}{path}", headers=bearer | {"accept": "text/html"})
            found = re.findall(r'(?:href|src|hx-get|data-api|data-then)="(/[^"]*)"', shown.text)
            assert len(found) > 3
            assert [one for one in found if not one.startswith("/robots/control/")] == []
            assert 'data-root="/robots/control"' in shown.text
        for name in ("page.js", "style.css", "vendor/htmx.min.js"):
            assert (await client.get(f"{at}/static/{name}")).status_code == 200


async def test_head_is_answered_as_get_without_a_body(client: httpx.AsyncClient) -> None:
    """Also for an event stream, which ends at once."""
    started = await client.post("/api/missions", json=_ROOM)
    saga_id = started.json()["saga_id"]
    for path in ("/", "/fleet", "/healthz", "/api/missions", f"/api/missions/{saga_id}/events"):
        answer = await client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert (await client.head("/static/page.js")).status_code == 200
    assert (await client.head("/missions/nobody")).status_code == 404


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer ", "bearer  "])
async def test_the_word_bearer_is_read_in_any_case(scheme: str) -> None:
    """As RFC 9110 says of authentication schemes; another scheme or none is refused."""
    async with _client(web_token=_GIVEN) as client:
        for given, status in ((f"{scheme} {_GIVEN}", 200), (f"Basic {_GIVEN}", 401), (_GIVEN, 401)):
            answer = await client.get("/api/fleet", headers={"authorization": given})
            assert answer.status_code == status


@pytest.mark.parametrize(
    ("name", "value"),
    [("WEB_PROXIES", "nginx"), ("WEB_PROXIES", "10.0.0.0/40"), ("WEB_ROOT_PATH", "missions/")],
)
def test_odd_settings_are_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2, and one line that names the setting."""
    monkeypatch.setattr("app.cli.base.configure", lambda settings, service: None)
    monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    result = CliRunner().invoke(cli, ["serve", "--port", "0"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"mission: {name}: ")
