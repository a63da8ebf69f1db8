"""A person's approval before the maps of a mission are merged: on the page, in a terminal, over HTTP."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from app.config import ROOT
from sagastream.testing import child_options
from tests.integration.conftest import run
from tests.integration.served import BROWSER_OPTIONS, Served, Watched
from tests.polling import eventually_sync

_CHROMIUM = shutil.which("chromium")
_END_MS = 60_000


@pytest.fixture(scope="module")
def served(running: dict[str, str]) -> Iterator[Served]:
    """The web server, with running workers."""
    with Served(running) as server:
        yield server


def _start(served: Served) -> str:
    asked = {"area": "rooms", "robots": 1, "approve": True}
    answer = httpx.post(f"{served.url}/api/missions", json=asked)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["saga_id"])


def _mission(served: Served, saga_id: str) -> dict[str, object]:
    return dict(httpx.get(f"{served.url}/api/missions/{saga_id}").json())


def _wait_for(served: Served, saga_id: str, **told: str) -> None:
    eventually_sync(
        lambda: told.items() <= _mission(served, saga_id).items(), within_s=60, why=f"it is {told}"
    )


def test_a_mission_waits_for_the_first_decision(served: Served, running: dict[str, str]) -> None:
    """Its robots are free meanwhile; the same decision again changes nothing, another is refused."""
    saga_id = _start(served)
    api = f"{served.url}/api/missions/{saga_id}"
    early = httpx.post(f"{api}/approve", json={})
    assert early.status_code == 409
    assert "does not wait for an approval" in early.json()["detail"]
    _wait_for(served, saga_id, status="running", at="approval")
    assert _mission(served, saga_id)["remaining"] == ["integrate_maps"]
    robots = httpx.get(f"{served.url}/api/fleet").json()
    assert [robot["holder"] for robot in robots if robot["holder"] == saga_id] == []
    assert httpx.post(f"{api}/approve", json={}).status_code == 202
    assert httpx.post(f"{api}/reject", json={}).status_code == 409
    _wait_for(served, saga_id, status="completed")
    assert (Path(running["OUT_DIR"]) / saga_id / "map.yaml").is_file()
    late = httpx.post(f"{api}/reject", json={})
    assert (late.status_code, "completed" in late.json()["detail"]) == (409, True)


def test_no_mission_waits_without_being_asked(served: Served) -> None:
    """It has four steps, as before, and refuses a decision."""
    answer = httpx.post(f"{served.url}/api/missions", json={"area": "rooms", "robots": 1})
    saga_id = answer.json()["saga_id"]
    _wait_for(served, saga_id, status="completed")
    entries = _mission(served, saga_id)["entries"]
    assert isinstance(entries, list)
    assert [entry["step"] for entry in entries] == [
        *("allocate_resources", "plan_route", "perform_exploration", "integrate_maps")
    ]


@pytest.mark.skipif(_CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_an_operator_rejects_on_the_page(served: Served) -> None:
    """The form asks for the approval; the page shows the wait, and how the mission is undone."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=BROWSER_OPTIONS)
        watched = Watched(browser.new_page())
        page = watched.page
        page.goto(served.url)
        start = page.locator("details", has_text="Start a mission")
        if start.get_attribute("open") is None:
            start.locator("summary").click()
        page.get_by_label("Area").select_option("rooms")
        page.get_by_label("Robots", exact=True).fill("1")
        page.get_by_label("Ask me before the maps are merged").check()
        page.get_by_role("button", name="Start").click()
        page.wait_for_url("**/missions/*")
        waiting = page.locator(".step", has_text="approval").locator(".badge")
        expect(waiting).to_have_text("◔ waiting", timeout=_END_MS)
        expect(page.locator("#status")).to_contain_text("waits for approval")
        page.get_by_role("button", name="Reject…").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("perform_exploration, then allocate_resources")
        dialog.get_by_label("Reason").fill("a door was closed")
        dialog.get_by_role("button", name="Reject this mission").click()
        expect(page.locator("#steps h2 .badge")).to_have_text("↩ compensated", timeout=_END_MS)
        expect(page.locator("#steps > .error").first).to_contain_text("a door was closed")
        undone = page.locator(".lane .step strong")
        expect(undone).to_have_text(["perform_exploration", "allocate_resources"])
        page.goto(f"{served.url}/?status=cancelled")
        expect(page.locator("tbody")).to_contain_text("a door was closed")
        browser.close()
    assert [error for error in watched.errors if not error.startswith("Canvas2D")] == []


def test_a_terminal_says_what_a_mission_waits_for(running: dict[str, str]) -> None:
    """`mission run --approve` names the commands; `mission approve` lets it end."""
    command = [sys.executable, "-m", "app.cli", "run", "--attach", "--area", "rooms"]
    process = subprocess.Popen(
        [*command, "--robots", "1", "--approve", "-o", "json"],
        cwd=ROOT,
        env=running,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **child_options(),
    )
    assert process.stderr is not None
    said = next(line for line in process.stderr if "waits for your approval" in line)
    found = re.search(r"mission approve (\S+), or: mission reject \1", said)
    assert found is not None
    saga_id = found[1]
    approved = run("app.cli", "approve", saga_id, "-o", "json", env=running)
    out, _ = process.communicate(timeout=60)
    assert (approved.code, process.returncode) == (0, 0)
    report = json.loads(out)
    assert report == approved.json
    steps = {step["name"]: step["status"] for step in report["steps"]}
    assert steps["approval"] == "completed"
    again = run("app.cli", "reject", saga_id, env=running)
    assert again.code == 1
    assert "already completed" in again.err


def test_a_mission_that_nobody_decides_is_undone(running: dict[str, str]) -> None:
    """After APPROVAL_TIMEOUT_S, which the one who starts it has."""
    env = running | {"APPROVAL_TIMEOUT_S": "0.2"}
    ended = run(
        *("app.cli", "run", "--area", "rooms", "--robots", "1", "--approve", "-o", "json"),
        env={name: value for name, value in env.items() if name != "REDIS_URL"},
    )
    assert ended.code == 3, ended.err
    assert ended.json["error"]["error_type"] == "EventTimeout"
    assert [step["status"] for step in ended.json["steps"]] == [
        *("compensated", "completed", "compensated", "failed", "not started")
    ]
