"""Both pages behind the real nginx and Caddy, with the files of the how-to: TLS and a subpath each."""

import html
import re
import shutil
import signal
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from tests.integration.proxies import JOBS, MISSIONS, PROXIES, Proxy, is_there, trust
from tests.integration.served import Served, Watched
from tests.integration.test_serve import ServedPage
from tests.polling import eventually_sync

_CHROMIUM = shutil.which("chromium")
_TOKEN = "2Yb1kq8sTn0vRz5wXc3dLm7p"  # noqa: S105 - of these tests


@dataclass(frozen=True)
class Proxied:
    """Both pages behind a proxy."""

    url: str
    client: httpx.Client
    trust: ssl.SSLContext

    def get(self, path: str, **options: object) -> httpx.Response:
        """Get a path, with the token."""
        headers = {"authorization": f"Bearer {_TOKEN}"}
        return self.client.get(f"{self.url}{path}", headers=headers, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=PROXIES)
def proxied(
    request: pytest.FixtureRequest,
    running: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxied]:
    """Both pages, with a token, behind one of the proxies."""
    if not is_there(request.param):
        pytest.skip(f"no {request.param}: apt-get install {request.param} openssl")
    token = tmp_path_factory.mktemp("proxy") / "token"
    token.write_text(_TOKEN)
    token.chmod(0o600)
    settings = {"WEB_ROOT_PATH": MISSIONS, "WEB_PROXIES": "127.0.0.1", "WEB_TOKEN": _TOKEN}
    options = ["--root-path", JOBS, "--proxy", "127.0.0.1", "--token-file", str(token)]
    with Served(running, "direct", **settings, WEB_HOSTS="localhost,127.0.0.1") as missions:
        jobs = ServedPage(running["REDIS_URL"], *options, "--allow-host", "localhost")
        jobs_port = int(jobs.url.rpartition(":")[2])
        with (
            Proxy(request.param, missions=missions.port, jobs=jobs_port) as proxy,
            httpx.Client(verify=trust(), timeout=20) as client,
        ):
            made = Proxied(proxy.url, client, trust())
            eventually_sync(lambda: _answers(made), within_s=30, why="it answers")
            yield made
        assert jobs.stop(signal.SIGTERM) == (0, "")


def _answers(proxied: Proxied) -> bool:
    try:
        return proxied.get("/missions/healthz").is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("path", ["/missions/", "/missions/fleet", "/jobs/", "/jobs/requests"])
def test_pages_are_below_their_path(proxied: Proxied, path: str) -> None:
    """Also by HEAD; what they link to, and load, is there as well."""
    page = proxied.get(path)
    assert page.status_code == 200
    base = path.split("/")[1]
    found = set(re.findall(r'(?:href|src)="(/[^"#]*)', html.unescape(page.text)))
    assert found
    assert {each for each in found if not each.startswith(f"/{base}/")} <= {f"/{base}"}
    for each in sorted(found):
        assert proxied.get(each, follow_redirects=True).status_code == 200, each
    headers = {"authorization": f"Bearer {_TOKEN}"}
    head = proxied.client.head(f"{proxied.url}{path}", headers=headers)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/missions", "/jobs"])
def test_a_path_without_its_slash_leads_to_the_page(proxied: Proxied, path: str) -> None:
    """By a redirect that stays below the proxy."""
    answer = proxied.get(path)
    assert answer.status_code == 308
    assert httpx.URL(proxied.url).join(answer.headers["location"]).path == f"{path}/"


def test_a_change_comes_from_the_page_itself(proxied: Proxied) -> None:
    """A mission starts, and its events come at once; a foreign origin is refused."""
    headers = {"authorization": f"Bearer {_TOKEN}", "origin": proxied.url}
    ask = {"area": "rooms", "robots": 1}
    api = f"{proxied.url}/missions/api/missions"
    foreign = proxied.client.post(
        api, json=ask, headers=headers | {"origin": "https://evil.example"}
    )
    assert foreign.status_code == 403
    started = proxied.client.post(api, json=ask, headers=headers)
    assert started.status_code == 202, started.text
    saga_id = started.json()["saga_id"]
    with proxied.client.stream("GET", f"{api}/{saga_id}/events", headers=headers) as events:
        kinds = [line for line in events.iter_lines() if line.startswith("event:")]
    assert kinds[-1] == "event: end"
    assert "event: frame" in kinds


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/missions/api/session", {"json": {"token": _TOKEN}}),
        ("/jobs/login", {"data": {"token": _TOKEN}}),
    ],
)
def test_the_session_of_a_browser_is_for_tls_only(
    proxied: Proxied, path: str, asked: dict[str, dict[str, str]]
) -> None:
    """Its cookie is secure, and opens the page."""
    with httpx.Client(verify=proxied.trust) as browser:
        origin = {"origin": proxied.url}
        answer = browser.post(f"{proxied.url}{path}", headers=origin, **asked)  # type: ignore[arg-type]
        assert answer.status_code in {200, 303}, answer.text
        assert answer.headers.get("location", "/jobs/").startswith("/jobs/")
        assert "secure" in answer.headers["set-cookie"].lower()
        page = browser.get(f"{proxied.url}/{path.split('/')[1]}/")
        assert page.status_code == 200


@pytest.mark.skipif(_CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_browser_sees_a_live_mission(proxied: Proxied) -> None:
    """With its map and its events, and without an error."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        context = chromium.new_context(ignore_https_errors=True)
        watched = Watched(context.new_page())
        page = watched.page
        page.goto(f"{proxied.url}/missions/")
        page.get_by_label("Token").fill(_TOKEN)
        with page.expect_navigation():
            page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        headers = {"authorization": f"Bearer {_TOKEN}", "origin": proxied.url}
        api = f"{proxied.url}/missions/api/missions"
        started = proxied.client.post(api, json={"area": "rooms", "robots": 1}, headers=headers)
        page.goto(f"{proxied.url}/missions/missions/{started.json()['saga_id']}")
        eventually_sync(
            lambda: watched.frames()[1] > 0,
            within_s=30,
            why="the map is drawn",
            meanwhile=lambda: page.wait_for_timeout(50),
        )
        chromium.close()
    assert [error for error in watched.errors if not error.startswith("Canvas2D")] == []
