"""The pages in a browser, with running missions."""

import os
import re
import shutil
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from app.exploration.map_files import load_map
from tests.integration.proxies import Front
from tests.integration.recorded_missions import put_recording
from tests.integration.served import BROWSER_OPTIONS, Served, Watched
from tests.plain_client import connect
from tests.polling import eventually_sync

_CHROMIUM = shutil.which("chromium")
_RECORDINGS = Path(__file__).parents[1] / "recordings"
_STEPS = ("allocate_resources", "plan_route", "perform_exploration", "integrate_maps")
_END_MS = 60_000
_SEEN = """
window.seen = [];
const Source = window.EventSource;
window.EventSource = class extends Source {
  constructor(...given) {
    super(...given);
    for (const kind of ["stage", "move", "frame"]) {
      this.addEventListener(kind, (event) => {
        window.seen.push([kind, JSON.parse(event.data).entry_id]);
      });
    }
  }
};
"""

pytestmark = pytest.mark.skipif(
    _CHROMIUM is None, reason="no chromium: apt-get install chromium fonts-dejavu-core"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=BROWSER_OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def served(running: dict[str, str], front: Front) -> Iterator[Served]:
    """The web server, with running workers."""
    with Served(running, front, WEB_REQUESTS_PER_S="10000") as server:
        yield server


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """A page; the test fails at its end if the page had errors."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    made = Watched(context.new_page())
    yield made
    context.close()
    # Reading the canvas is done by the test itself.
    assert [error for error in made.errors if not error.startswith("Canvas2D")] == []


def _start(served: Served, area: str, **options: Any) -> str:
    key = options.pop("key", str(uuid.uuid4()))
    asked = {"area": area, "robots": 2} | options
    headers = {"idempotency-key": key}
    answer = httpx.post(f"{served.url}/api/missions", json=asked, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["saga_id"])


def _status(served: Served, saga_id: str) -> str:
    return str(httpx.get(f"{served.url}/api/missions/{saga_id}").json()["status"])


def _wait_for_end(served: Served, saga_id: str, status: str) -> None:
    eventually_sync(
        lambda: _status(served, saga_id) == status, within_s=60, why=f"the mission is {status}"
    )


def _wait_for_last_frame(watched: Watched) -> None:
    def is_shown() -> bool:
        index, count = watched.frames()
        return count > 0 and index == count - 1

    eventually_sync(
        is_shown,
        within_s=20,
        why="the last frame of the recording is drawn",
        meanwhile=lambda: watched.page.wait_for_timeout(50),
    )


def _has_map(watched: Watched, picture: Path) -> bool:
    """Return whether the canvas equals a map file, cell by cell."""
    grid = load_map(picture).grid
    return bool(np.array_equal(watched.shown((grid.shape[0], grid.shape[1])), grid))


@pytest.mark.proxied
def test_a_mission_is_started_and_watched_to_its_end(
    served: Served, watched: Watched, running: dict[str, str]
) -> None:
    """From the form to the final map: every cell is on the canvas."""
    page = watched.page
    page.goto(served.url)
    start = page.locator("details", has_text="Start a mission")
    if start.get_attribute("open") is None:
        start.locator("summary").click()
    page.get_by_label("Area").select_option("rooms")
    page.get_by_label("Robots", exact=True).fill("2")
    page.get_by_label("Seed").fill("5")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile(re.escape(f"{served.url}/missions/") + "."))
    saga_id = page.url.rpartition("/")[2]
    expect(page.locator("#steps h2 .badge")).to_have_text("✓ completed", timeout=_END_MS)
    assert [text.strip() for text in page.locator(".step strong").all_inner_texts()] == [*_STEPS]
    expect(page.locator(".step .badge")).to_have_text(["✓ done"] * 4)
    expect(page.locator(".lane")).to_have_count(0)
    for chips in page.locator(".stages").all_inner_texts():
        assert chips.startswith("start")
        assert chips.endswith("completed")
    _wait_for_last_frame(watched)
    assert _has_map(watched, Path(running["OUT_DIR"]) / saga_id / "map.yaml")
    assert page.locator("#team tbody tr").count() == 2
    picture = page.get_by_role("link", name="map.png").get_attribute("href")
    assert httpx.get(served.link(picture)).content.startswith(b"\x89PNG")


def test_a_stuck_mission_is_fixed_and_resumed(
    served: Served, watched: Watched, running: dict[str, str]
) -> None:
    """Failed step, compensation lane and stuck compensation are shown; Resume undoes all."""
    page, key = watched.page, f"stuck-{uuid.uuid4().hex[:8]}"
    obstacle = Path(running["OUT_DIR"]) / f".{key}.draft"
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("in the way of this mission's results")
    _start(served, "rooms", key=key)
    page.goto(f"{served.url}/missions/{key}")
    expect(page.locator("#steps h2 .badge")).to_have_text("⚠ stuck", timeout=_END_MS)
    forward = page.locator("#steps > ol .badge")
    expect(forward).to_have_text(["✓ done", "✓ done", "✓ done", "✗ failed"])
    expect(page.locator("#steps > .error").first).to_contain_text("NotADirectoryError")
    lane = page.locator(".lane .step")
    expect(lane.locator("strong")).to_have_text(
        ["integrate_maps", "perform_exploration", "allocate_resources"]
    )
    expect(lane.locator(".badge")).to_have_text(["⚠ undo failed", "· not begun", "· not begun"])
    obstacle.unlink()
    page.get_by_role("button", name="Resume…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("gets new attempts")
    dialog.get_by_role("button", name="Resume this mission").click()
    expect(page.locator("#steps h2 .badge")).to_have_text("↩ compensated", timeout=_END_MS)
    expect(lane.locator(".badge")).to_have_text(["↩ undone"] * 3)


def test_cancel_asks_for_confirmation_and_undoes(served: Served, watched: Watched) -> None:
    """The dialog names the steps to undo in order; then they are undone."""
    page = watched.page
    saga_id = _start(served, "suite")
    page.goto(f"{served.url}/missions/{saga_id}")
    running = page.locator(".step", has_text="perform_exploration").locator(".badge")
    expect(running).to_have_text("▶ running", timeout=_END_MS)
    page.locator("#deliveries > summary").click()
    expect(page.locator("#deliveries")).to_contain_text("exploration:commands")
    page.get_by_role("button", name="Cancel…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("perform_exploration, then allocate_resources")
    dialog.get_by_label("Reason").fill("seen enough")
    dialog.get_by_role("button", name="Cancel this mission").click()
    expect(page.locator("#steps h2 .badge")).to_have_text("↩ compensated", timeout=_END_MS)
    expect(page.locator("#steps > .error").first).to_contain_text("seen enough")
    expect(page.locator(".lane .badge")).to_have_text(["↩ undone"] * 2)
    expect(page.locator("#steps > ol .badge").nth(2)).to_have_text("⊘ cancelled")
    expect(page.locator("#figure-remaining")).to_have_text("it was stopped")
    undone = page.locator("#timeline .is-undo a")
    expect(undone).to_have_count(2)
    request = httpx.get(served.link(undone.first.get_attribute("href")))
    assert (request.status_code, "exploration:abort" in request.text) == (200, True)
    # Robots are named as in the fleet, and those of a cancelled mission have not done their work.
    for row in page.locator("#team tbody tr").all():
        expect(row.locator("td").first).to_have_text("■ stopped")
        name = row.locator("th").inner_text()
        number = row.locator(".mark").inner_text()
        assert name == f"{number}robot-{number}"


def test_every_event_arrives_once_when_the_web_server_is_killed(
    running: dict[str, str], browser: Browser, front: Front
) -> None:
    """After SIGKILL and a restart of the server: no gap, no repeat, each stream in order."""
    context = browser.new_context()
    context.add_init_script(_SEEN)
    page = context.new_page()
    with Served(running, front) as mine:
        saga_id = _start(mine, "suite")
        page.goto(f"{mine.url}/missions/{saga_id}")
        for _ in range(2):
            before = len(_seen(page))
            eventually_sync(
                lambda before=before: len(_seen(page)) >= before + 5,  # type: ignore[misc]
                within_s=30,
                why="the page got five more events",
                meanwhile=lambda: page.wait_for_timeout(20),
            )
            mine.kill()
            mine.start()
        httpx.post(f"{mine.url}/api/missions/{saga_id}/cancel", json={"reason": "seen enough"})
        _wait_for_end(mine, saga_id, "compensated")
        told = _written(running["REDIS_URL"], saga_id)
        eventually_sync(
            lambda: len(_seen(page)) >= sum(len(ids) for ids in told.values()),
            within_s=30,
            why="the page got all events",
            meanwhile=lambda: page.wait_for_timeout(50),
        )
        seen = _seen(page)
    context.close()
    for kind, ids in told.items():
        assert [entry for name, entry in seen if name == kind] == ids


def test_a_mission_that_failed_at_once_has_nothing_to_play(
    served: Served, watched: Watched
) -> None:
    """A sentence instead of an empty map with a player; nothing is left to resume."""
    saga_id = _start(served, "rooms", robots=60)
    page = watched.page
    page.goto(f"{served.url}/missions/{saga_id}")
    expect(page.locator("#no-map")).to_be_visible(timeout=_END_MS)
    expect(page.locator("#map")).to_be_hidden()
    expect(page.locator(".player")).to_be_hidden()
    expect(page.get_by_role("button", name="Resume…")).to_have_count(0)


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/missions/{}", "killed"),
        pytest.param("/missions/{}", "stopped", marks=pytest.mark.long),
        ("/missions/{}", "offline"),
        ("/", "stopped"),
        pytest.param("/fleet", "killed", marks=pytest.mark.long),
    ],
)
def test_a_page_without_connection_never_says_live(
    running: dict[str, str], browser: Browser, front: Front, path: str, fault: str
) -> None:
    """Seen within 3 s: the clock stops, the age of the data counts, and it comes back by itself."""
    context = browser.new_context()
    page = context.new_page()
    with Served(running, front) as mine:
        saga_id = _start(mine, "suite")
        page.goto(f"{mine.url}{path.format(saga_id)}")
        expect(page.locator("#connection")).to_have_text("Live", timeout=_END_MS)
        if fault == "killed":
            mine.kill()
        elif fault == "stopped":
            os.kill(mine.pid, signal.SIGSTOP)
        else:
            context.set_offline(True)
        expect(page.locator("#connection")).to_contain_text("No connection", timeout=3000)
        expect(page.locator("#age")).to_have_text(re.compile(r"as of [3-9] s ago"), timeout=_END_MS)
        expect(page.get_by_text("Live", exact=True)).to_have_count(0)
        if "{}" in path and fault == "killed":
            _check_that_time_stands(page)
        if fault == "killed":
            mine.start()
        elif fault == "stopped":
            os.kill(mine.pid, signal.SIGCONT)
        context.set_offline(False)
        expect(page.locator("#connection")).to_have_text("Live", timeout=_END_MS)
        if "{}" in path:
            before = int(page.locator("#map").get_attribute("data-frames") or 0)
            page.wait_for_function(
                "(before) => Number(document.getElementById('map').dataset.frames) > before",
                arg=before,
            )
        httpx.post(f"{mine.url}/api/missions/{saga_id}/cancel", json={"reason": "seen enough"})
        _wait_for_end(mine, saga_id, "compensated")
    context.close()


def _check_that_time_stands(page: Page) -> None:
    """The mission's clock stands while the age of the data grows; an action says what is unknown."""
    shown = page.locator("#steps p .took").first.inner_text()
    age = page.locator("#age").inner_text()
    expect(page.locator("#age")).not_to_have_text(age)
    assert page.locator("#steps p .took").first.inner_text() == shown
    assert page.get_by_role("button", name="Live").count() == 0
    page.get_by_role("button", name="Cancel…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Cancel this mission").click()
    expect(dialog.locator(".problem")).to_contain_text("does not answer", timeout=_END_MS)
    dialog.get_by_role("button", name="Keep as it is").click()


def _seen(page: Page) -> list[tuple[str, str]]:
    return [(kind, entry) for kind, entry in page.evaluate("() => window.seen")]


def _written(url: str, saga_id: str) -> dict[str, list[str]]:
    streams = {
        "stage": f"saga:{saga_id}:replies",
        "move": f"saga:{saga_id}:journal",
        "frame": f"missions:{saga_id}:frames",
    }
    with connect(url) as client:
        return {kind: [entry for entry, _ in client.xrange(name)] for kind, name in streams.items()}


def test_a_mission_recorded_by_an_earlier_commit_is_replayed(
    served: Served, running: dict[str, str], watched: Watched
) -> None:
    """The slider moves through it; the last frame is the recorded map."""
    with connect(running["REDIS_URL"]) as client:
        saga_id = put_recording(client)
    page = watched.page
    page.goto(f"{served.url}/missions/{saga_id}")
    picture = _RECORDINGS / "v1-rooms.yaml"
    _wait_for_last_frame(watched)
    assert _has_map(watched, picture)
    slider = page.get_by_label("Mission time")
    slider.focus()
    slider.press("Home")
    eventually_sync(
        lambda: watched.frames()[0] == 0,
        within_s=5,
        why="the first frame is drawn",
        meanwhile=lambda: page.wait_for_timeout(20),
    )
    assert not _has_map(watched, picture)
    page.get_by_label("Speed").select_option("100")
    page.get_by_role("button", name="Play").click()
    _wait_for_last_frame(watched)
    assert _has_map(watched, picture)


def test_an_operator_releases_a_robot(
    served: Served, running: dict[str, str], watched: Watched
) -> None:
    """The dialog names the holder; then the robot is free and the mission continues."""
    page = watched.page
    saga_id = _start(served, "suite")
    page.goto(f"{served.url}/fleet")
    row = page.locator("tr", has_text=saga_id).first
    expect(row).to_be_visible(timeout=_END_MS)
    name = row.locator("th").inner_text()
    page.get_by_role("button", name=f"Release {name}").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(saga_id)
    dialog.get_by_label("Reason").fill("its wheel is stuck")
    dialog.get_by_role("button", name="Release", exact=True).click()
    expect(page.locator(f"#robot-{name} td").nth(2)).to_have_text("free", timeout=10_000)
    assert _status(served, saga_id) == "running"
    httpx.post(f"{served.url}/api/missions/{saga_id}/cancel", json={})
    _wait_for_end(served, saga_id, "compensated")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 360)])
def test_every_page_is_accessible(
    served: Served, watched: Watched, scheme: Any, width: int
) -> None:
    """axe-core finds no fault on any page, light or dark, narrow or wide."""
    page = watched.page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    done, failed = _start(served, "rooms"), _start(served, "rooms", robots=60)
    _wait_for_end(served, done, "completed")
    _wait_for_end(served, failed, "compensated")
    for path in (
        "/",
        "/?status=stuck",
        f"/missions/{done}",
        f"/missions/{failed}",
        "/fleet",
        "/login",
    ):
        page.goto(served.url + path)
        for summary in page.locator("main details.card > summary").all():
            if summary.locator("..").get_attribute("open") is None:
                summary.click()
        page.wait_for_load_state("networkidle") if "missions/" not in path else None
        found = Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= width, path


def test_the_browser_is_asked_for_the_token_once(
    running: dict[str, str], watched: Watched, front: Front
) -> None:
    """Without a token only the form is shown; a wrong token is refused, the right one accepted."""
    page = watched.page
    with Served(running, front, WEB_TOKEN="correct horse battery staple") as mine:
        page.goto(f"{mine.url}/fleet")
        assert page.url == f"{mine.url}/login"
        page.get_by_label("Token of this server").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("wrong token")
        page.get_by_label("Token of this server").fill("correct horse battery staple")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Missions")).to_be_visible()
        (cookie,) = page.context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert "correct horse" not in cookie["value"]
        page.goto("about:blank")
    # The browser logs the refused request.
    watched.errors[:] = [error for error in watched.errors if "401" not in error]


def test_a_flood_of_requests_does_not_affect_a_mission(
    running: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """Most requests get 429, none a 5xx, and the running mission completes."""
    requests = 10_000 if request.config.getoption("--long") else 1500
    with Served(running) as mine, httpx.Client() as client, ThreadPoolExecutor(8) as threads:
        saga_id = _start(mine, "rooms")

        def ask(_: int) -> int:
            asked = {"area": "nowhere", "robots": 1}
            return client.post(f"{mine.url}/api/missions", json=asked).status_code

        assert set(threads.map(ask, range(requests))) == {422, 429}
        _wait_for_end(mine, saga_id, "completed")
