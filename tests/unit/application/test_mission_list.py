"""The list of missions: filters, orders, pages, and how each ended; the form that starts one."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from app.config import choose_settings, get_settings
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.missions.mission_saga import mission_runner
from app.robots import fleet
from app.web import mission_list
from app.web.api import make_app
from sagastream import Bus
from tests.mission_intents import intend_next_step
from tests.plain_client import add_entry

pytestmark = pytest.mark.blocking


@pytest.fixture
async def client(app_bus: Bus, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server with two maps and no workers."""
    floor = draw_rooms(2)
    for area in ("office", "yard"):
        save_map(tmp_path / f"{area}.yaml", floor.grid, floor.frame)
    choose_settings(map_dir=tmp_path, web_hosts="mission.test")
    transport = httpx.ASGITransport(make_app(get_settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://mission.test") as made:
        yield made


async def _start(client: httpx.AsyncClient, key: str, area: str = "office") -> None:
    body = {"area": area, "robots": 1}
    headers = {"idempotency-key": key}
    answer = await client.post("/api/missions", json=body, headers=headers)
    assert answer.status_code == 202, answer.text


async def _shown(client: httpx.AsyncClient, path: str = "/", **query: Any) -> list[str]:
    """The ids of the missions on a page, in their order."""
    page = await client.get(path, params=query)
    assert page.status_code == 200, page.text
    return re.findall(r'<tr id="row-([^"]+)">', page.text)


async def test_missions_are_filtered_and_sorted(client: httpx.AsyncClient) -> None:
    """By state, area, time and text; on the page, in its part that is polled, and in the API."""
    for key, area in (("m-1", "office"), ("m-2", "yard"), ("m-3", "office")):
        await _start(client, key, area)
    await mission_runner().compensate("m-2", "it rains")
    for query, expected in (
        ({}, ["m-3", "m-2", "m-1"]),
        ({"sort": "oldest"}, ["m-1", "m-2", "m-3"]),
        ({"sort": "area"}, ["m-3", "m-1", "m-2"]),
        ({"status": "running"}, ["m-3", "m-1"]),
        ({"status": "cancelled"}, ["m-2"]),
        ({"status": "compensated"}, ["m-2"]),
        ({"status": "failed"}, []),
        ({"area": "YARD"}, ["m-2"]),
        ({"text": "rains"}, ["m-2"]),
        ({"text": "allocate"}, ["m-3", "m-1"]),
        ({"text": "m-1"}, ["m-1"]),
        ({"hours": "1", "area": "office", "sort": "oldest"}, ["m-1", "m-3"]),
        ({"hours": "0.0000001"}, []),
        ({"status": "", "area": "", "text": "", "hours": ""}, ["m-3", "m-2", "m-1"]),
    ):
        for path in ("/", "/parts/missions"):
            assert await _shown(client, path, **query) == expected, query
        listed = (await client.get("/api/missions", params=query)).json()
        assert [row["saga_id"] for row in listed] == expected, query
    for query in ({"status": "odd"}, {"sort": "odd"}, {"page": "0"}, {"hours": "soon"}):
        assert (await client.get("/api/missions", params=query)).status_code == 422


async def test_cancelled_and_failed_missions_are_told_apart(client: httpx.AsyncClient) -> None:
    """Each has its word, and why, in its line."""
    await _start(client, "cancelled-one")
    await mission_runner().compensate("cancelled-one", "it rains <b>")
    page = (await client.get("/")).text
    assert "</span> cancelled</span>" in page
    assert "it rains &lt;b&gt;" in page
    (row,) = (await client.get("/api/missions")).json()
    assert (row["outcome"], row["error_line"]) == ("cancelled", "it rains <b>")
    assert row["duration_s"] == 0.0


async def test_missions_are_paged(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is on one page; links keep the filter; a page behind the last is the last."""
    monkeypatch.setattr(mission_list.find_missions, "__kwdefaults__", {"per_page": 2})
    for number in range(5):
        await _start(client, f"m-{number}")
    found = [await _shown(client, page=number, area="office") for number in (1, 2, 3, 9)]
    assert found == [["m-4", "m-3"], ["m-2", "m-1"], ["m-0"], ["m-0"]]
    page = (await client.get("/", params={"area": "office", "page": 2})).text
    assert 'href="/?area=office&amp;page=3"' in page
    assert 'href="/?area=office&amp;page=1"' in page
    assert "5 missions, page 2 of 3" in page


async def test_progress_is_an_area(client: httpx.AsyncClient, app_bus: Bus) -> None:
    """And what is left of the exploration is in the API."""
    await _start(client, "m")
    await intend_next_step("m")
    payload = (
        '{"fraction": 0.5, "known_m2": 41.6, "robots": {"r1": {"driven_m": 5.0}}, '
        '"remaining": {"seconds": 12.5}}'
    )
    await add_entry(app_bus, "saga:m:replies", {"payload": payload})
    (row,) = (await client.get("/api/missions")).json()
    assert (row["known_m2"], row["remaining_s"], row["driven_m"]) == (41.6, 12.5, 5.0)
    assert "42 m²" in (await client.get("/")).text


async def test_an_empty_list_says_what_to_do(client: httpx.AsyncClient) -> None:
    """Without missions, and with a filter that none fits."""
    assert "mission start --area" in (await client.get("/")).text
    await _start(client, "m")
    assert "Show all missions" in (await client.get("/", params={"text": "nothing"})).text


async def test_the_start_form_says_what_would_be_refused(client: httpx.AsyncClient) -> None:
    """No workers, free robots, and the limit of open missions."""
    assert "mission workers" in (await client.get("/parts/start")).text
    await fleet.check_in("r1")
    page = (await client.get("/parts/start")).text
    assert "No listener reads resources:commands" in page
    assert "1 of 1 robot is free" in re.sub(r"<[^>]+>", "", page)
    choose_settings(web_open_missions=1)
    await _start(client, "m")
    assert "WEB_OPEN_MISSIONS" in (await client.get("/parts/start")).text
    choose_settings(map_dir=get_settings().map_dir / "nothing")
    assert "MAP_DIR" in (await client.get("/")).text


async def test_the_picture_of_a_map_is_the_map(client: httpx.AsyncClient) -> None:
    """Free cells are white, walls dark; other names are refused."""
    answer = await client.get("/areas/office.png")
    assert answer.headers["content-type"] == "image/png"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    floor = draw_rooms(2).grid
    assert abs(picture.shape[1] / picture.shape[0] - floor.shape[1] / floor.shape[0]) < 0.05
    share = np.mean(picture > 240)
    assert abs(share - np.mean(floor == 0)) < 0.1
    for name in ("nothing", "..%2Foffice", "a b"):
        assert (await client.get(f"/areas/{name}.png")).status_code in {404, 422}


async def test_all_entries_are_downloaded(client: httpx.AsyncClient, app_bus: Bus) -> None:
    """Each stage and transition is a line, in order, more than one read returns; no frame is."""
    await _start(client, "m")
    for number in range(250):
        fields = {"status": "progress", "payload": f'{{"fraction": {number / 250}}}'}
        await add_entry(app_bus, "saga:m:replies", fields)
    await add_entry(app_bus, "missions:m:frames", {"payload": "{}"})
    answer = await client.get("/missions/m/entries.jsonl")
    assert answer.headers["content-disposition"] == 'attachment; filename="m.jsonl"'
    lines = [json.loads(line) for line in answer.text.splitlines()]
    stages = [line["payload"]["fraction"] for line in lines if "payload" in line]
    assert stages == [number / 250 for number in range(250)]
    assert (await client.get("/missions/nobody/entries.jsonl")).status_code == 404
