"""The web server: API, event streams, security."""

import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.types import Scope
from typer.testing import CliRunner

from app.cli.main import app as cli
from app.config import Settings, choose_settings, get_settings
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.missions.mission_saga import mission_runner, mission_saga
from app.robots import fleet
from app.web import pages
from app.web.api import make_app
from app.web.limits import StreamLimits
from sagastream import Bus
from sagastream.saga.journal import intend, next_action
from sagastream.saga.store import SagaStore
from sagastream.testing import EmbeddedServer
from sagastream.web.access import MAX_BODY_BYTES
from sagastream.web.rate_limits import RateLimiter, client_of
from sagastream.web.tokens import is_guessable
from tests.mission_intents import intend_next_step
from tests.plain_client import add_entry, call

pytestmark = pytest.mark.blocking

_CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_TOKEN = "xW3r-8kQz_P1mYb6TnVh0A"  # noqa: S105 - of these tests
_ROOM = {"area": "room", "robots": 2}


@pytest.fixture(autouse=True)
def area(app_bus: Bus, tmp_path: Path) -> None:
    """A floor of one room."""
    floor = draw_rooms(1)
    save_map(tmp_path / "room.yaml", floor.grid, floor.frame)
    choose_settings(map_dir=tmp_path)


@pytest.fixture(autouse=True)
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The recorded spans of requests."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("app.web.api._TRACER", provider.get_tracer("mission"))
    yield exporter
    provider.shutdown()


def _client(**settings: Any) -> httpx.AsyncClient:
    choose_settings(**({"web_hosts": "mission.test"} | settings))
    app: FastAPI = make_app(get_settings())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://mission.test")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API with default settings."""
    async with _client() as made:
        yield made


def _refused(answer: httpx.Response, status: int, title: str) -> str:
    """Check the format of a problem and return its detail."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "trace_id"}
    assert (answer.status_code, body["status"], body["title"]) == (status, status, title)
    assert body["type"] == f"urn:mission:{title}"
    assert re.fullmatch("[0-9a-f]{32}", body["trace_id"])
    return str(body["detail"])


async def test_a_mission_is_started_and_shown(
    client: httpx.AsyncClient, sent: list[tuple[str, str]]
) -> None:
    """It is accepted at once, its first step is sent, and all steps remain."""
    started = await client.post("/api/missions", json=_ROOM | {"seed": 7})
    assert started.status_code == 202
    saga_id = started.json()["saga_id"]
    assert started.headers["location"] == f"/api/missions/{saga_id}"
    assert sent == [(saga_id, "allocate_resources")]
    shown = (await client.get(started.headers["location"])).json()
    about = {name: shown[name] for name in ("status", "area", "robots", "seed", "at", "entries")}
    assert about == {
        "status": "running",
        "area": "room",
        "robots": 2,
        "seed": 7,
        "at": "allocate_resources",
        "entries": [],
    }
    assert shown["remaining"] == [
        *("allocate_resources", "plan_route", "perform_exploration", "integrate_maps"),
    ]


async def test_a_request_is_a_new_trace_linked_to_its_callers(
    client: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    """A request starts a new trace, which links to the caller's span."""
    answer = await client.get("/api/missions/nobody", headers={"traceparent": _CALLER})
    (span,) = spans.get_finished_spans()
    assert span.name == "GET /api/missions/{saga_id}"
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" == answer.json()["trace_id"] != _CALLER.split("-")[1]
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [_CALLER.split("-")[1]]


async def test_a_key_is_the_missions_id(client: httpx.AsyncClient) -> None:
    """The same key twice is one mission; other parameters and invalid keys are refused."""
    key = {"idempotency-key": "monday-1"}
    for _ in range(2):
        started = await client.post("/api/missions", json=_ROOM, headers=key)
        assert (started.status_code, started.json()) == (202, {"saga_id": "monday-1"})
    other = await client.post("/api/missions", json=_ROOM | {"robots": 3}, headers=key)
    assert "another input" in _refused(other, 409, "SagaError")
    assert [row["saga_id"] for row in (await client.get("/api/missions")).json()] == ["monday-1"]
    bad = await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "../x"})
    assert "idempotency-key" in _refused(bad, 422, "InvalidRequest")


@pytest.mark.parametrize(
    ("body", "title", "detail"),
    [
        ({}, "InvalidRequest", "area: "),
        ({"area": "nowhere"}, "MapError", "found: room"),
        ({"area": "../room"}, "MapError", "a name is"),
        (_ROOM | {"robots": 0}, "InvalidRequest", "robots: "),
        (_ROOM | {"robots": 65}, "InvalidRequest", "robots: "),
        (_ROOM | {"robots": "2"}, "InvalidRequest", "robots: "),
        (_ROOM | {"seed": -1}, "InvalidRequest", "seed: "),
        (_ROOM | {"speed": 1}, "InvalidRequest", "speed: "),
        ([], "InvalidRequest", "body: "),
    ],
)
async def test_invalid_missions_are_refused(
    client: httpx.AsyncClient, body: Any, title: str, detail: str
) -> None:
    """The error names the field, and no mission is started."""
    assert detail in _refused(await client.post("/api/missions", json=body), 422, title)
    assert (await client.get("/api/missions")).json() == []


async def test_a_mission_is_cancelled_and_listed_by_its_status(client: httpx.AsyncClient) -> None:
    """The journal has the reason; an ended mission does not change."""
    for key in ("a", "b"):
        await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": key})
    ended = await client.post("/api/missions/a/cancel", json={"reason": "it rains"})
    assert ended.status_code == 202
    assert ended.json()["status"] == "compensated"
    assert ended.json()["error"]["message"] == "it rains"
    assert ended.json()["remaining"] == []
    again = await client.post("/api/missions/a/cancel", json={"reason": "still"})
    assert again.json()["error"]["message"] == "it rains"
    for status, ids in (("compensated", ["a"]), ("running", ["b"]), ("stuck", [])):
        rows = (await client.get("/api/missions", params={"status": status})).json()
        assert [row["saga_id"] for row in rows] == ids
    resumed = await client.post("/api/missions/b/resume", json={})
    assert resumed.json()["status"] == "running"


@pytest.mark.parametrize("path", ["", "/events", "/cancel", "/resume"])
async def test_an_unknown_mission_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    """Every operation on it responds with 404."""
    url = f"/api/missions/nobody{path}"
    post = path in {"/cancel", "/resume"}
    answer = await (client.post(url, json={}) if post else client.get(url))
    assert "nobody" in _refused(answer, 404, "NoSuchSaga")


async def _events(
    client: httpx.AsyncClient, saga_id: str, after: str | None = None
) -> list[tuple[str, str, dict[str, Any]]]:
    """Read id, kind and data of each event until the mission's end."""
    headers = {"last-event-id": after} if after else {}
    answer = await client.get(f"/api/missions/{saga_id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


async def test_events_resume_behind_the_last_one_seen(client: httpx.AsyncClient) -> None:
    """After any event, a client that resumes gets exactly the missed events."""
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    await mission_runner().compensate("m", "enough")
    told = await _events(client, "m")
    assert [kind for _, kind, _ in told] == ["move", "move", "end"]
    assert [data.get("status") for _, _, data in told] == ["running", "compensated", None]
    for seen in range(len(told)):
        assert await _events(client, "m", told[seen][0]) == (told[seen + 1 :] or told[-1:])


async def test_events_of_all_streams_are_in_order_of_time(
    client: httpx.AsyncClient, app_bus: Bus
) -> None:
    """Stages, moves and frames are merged by time."""
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    for stream, step in ((get_settings().recording_stream("m"), 1), ("saga:m:replies", 2)):
        for number in range(150):
            await add_entry(app_bus, stream, {"n": number}, entry_id=f"{1 + number}-{step}")
    await mission_runner().compensate("m", "enough")
    told = await _events(client, "m")
    assert [kind for _, kind, _ in told[-3:]] == ["move", "move", "end"]
    numbers = {
        kind: [data["n"] for _, what, data in told if what == kind] for kind in ("frame", "stage")
    }
    assert numbers["frame"] == numbers["stage"] == [str(number) for number in range(150)]
    assert [kind for _, kind, _ in told[:4]] == ["frame", "stage", "frame", "stage"]


async def test_clients_at_the_same_position_share_a_read(
    client: httpx.AsyncClient, app_bus: Bus
) -> None:
    """Ten clients cause as many reads as one, and get the same events."""
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    await mission_runner().compensate("m", "enough")

    async def reads() -> int:
        told = await app_bus.command("INFO", "commandstats")
        return int(told.get("cmdstat_xread", {"calls": 0})["calls"])

    costs = []
    for readers in (1, 10):
        before = await reads()
        told = await asyncio.gather(*(_events(client, "m") for _ in range(readers)))
        costs.append(await reads() - before)
        assert all(each == told[0] for each in told)
    assert costs[1] <= costs[0] + 1


async def test_an_invalid_event_id_is_refused(client: httpx.AsyncClient) -> None:
    """The error comes before the stream starts, so that the page sees it."""
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    answer = await client.get("/api/missions/m/events", headers={"last-event-id": "nonsense"})
    assert "Last-Event-ID" in _refused(answer, 422, "InvalidMessage")


async def test_events_resume_by_query_parameter(client: httpx.AsyncClient) -> None:
    """The query parameter works too; the header, which browsers update, takes precedence."""
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    await mission_runner().compensate("m", "enough")
    told = await _events(client, "m")
    path, first = "/api/missions/m/events", {"after": told[0][0]}
    assert (await client.get(path, params=first)).text.count("event: move") == 1
    header = {"last-event-id": told[1][0]}
    assert "event: move" not in (await client.get(path, params=first, headers=header)).text
    refused = await client.get(path, params={"after": "yesterday"})
    assert "Last-Event-ID" in _refused(refused, 422, "InvalidMessage")


async def test_a_mission_is_compensated_in_any_state(client: httpx.AsyncClient) -> None:
    """A running mission is compensated; a compensated one does not change."""
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    for _ in range(2):
        answer = await client.post("/api/missions/m/compensate", json={})
        assert answer.status_code == 202
        assert answer.json()["status"] == "compensated"
        assert answer.json()["error"]["message"] == "compensated by hand"


async def test_reported_progress_is_listed(client: httpx.AsyncClient, app_bus: Bus) -> None:
    """The list shows the known share and the distance of the last progress report."""
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    saga, journal = mission_saga(get_settings()), await mission_runner().journal("m")
    what = next_action(saga, journal)
    assert what is not None
    store = SagaStore(app_bus, saga.name, wake_after_s=1.0, keep_s=60, keep_moves_s=60)
    begun = intend(saga, journal, what, now=1.0, max_attempts=5)
    await store.change(await store.get("m"), lambda _: begun)
    robots = {"r1": {"driven_m": 2.5}, "r2": {"driven_m": 4.0}}
    for payload in ({"fraction": 0.25, "robots": robots}, {"maps": 2}):
        await add_entry(app_bus, "saga:m:replies", {"payload": json.dumps(payload)})
    (row,) = (await client.get("/api/missions")).json()
    assert (row["known"], row["driven_m"]) == (0.25, 6.5)


async def test_a_mission_of_a_newer_release_is_listed(
    client: httpx.AsyncClient, app_bus: Bus
) -> None:
    """It is `unreadable` in the API and on the page, and hides no other; its id is explained."""
    for key in ("ours", "newer"):
        await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": key})
    await call(app_bus, "HSET", "saga:newer", "journal", '{"v": 4}')
    listed = {row["saga_id"]: row for row in (await client.get("/api/missions")).json()}
    assert listed["ours"]["status"] == "running"
    empty = {"status": "unreadable", "at": "", "trace_id": ""}
    assert {name: value for name, value in listed["newer"].items() if value is not None} == {
        "saga_id": "newer",
        **empty,
    }
    (row,) = (await client.get("/api/missions", params={"status": "unreadable"})).json()
    assert row["saga_id"] == "newer"
    for page in ("/", "/parts/missions"):
        rows = (await client.get(page)).text.split("<tr id=")
        (shown,) = [row for row in rows if row.startswith('"row-newer"')]
        assert "unreadable</span>" in shown
        assert "None" not in shown
        assert any(row.startswith('"row-ours"') for row in rows)
    detail = _refused(await client.get("/api/missions/newer"), 409, "UnreadableJournal")
    assert "version 4, and this release reads version 3" in detail
    browser = await client.get("/missions/newer", headers={"accept": "text/html"})
    assert browser.status_code == 409
    assert "version 4, and this release reads version 3" in browser.text


async def test_a_browser_logs_in_with_the_token() -> None:
    """A wrong token sets no cookie; the cookie is not the token and grants the same access."""
    async with _client(web_token="correct horse") as client:
        page = {"accept": "text/html"}
        assert (await client.get("/", headers=page)).headers["location"] == "/login"
        assert (await client.get("/login", headers=page)).status_code == 200
        assert (await client.get("/static/style.css")).status_code == 200
        wrong = await client.post("/api/session", json={"token": "wrong"})
        _refused(wrong, 401, "Unauthorized")
        assert not client.cookies
        given = await client.post("/api/session", json={"token": "correct horse"})
        assert "correct horse" not in given.headers["set-cookie"]
        assert (await client.get("/", headers=page)).status_code == 200
        client.cookies.set("session", "0" * 64)
        assert (await client.get("/", headers=page)).status_code == 303


async def test_browsers_get_errors_as_pages(client: httpx.AsyncClient) -> None:
    """A browser gets an error page, a program a problem."""
    shown = await client.get("/missions/nobody", headers={"accept": "text/html"})
    assert shown.status_code == 404
    assert "<h1>Not Found</h1>" in shown.text
    assert "NoSuchSaga" not in shown.text
    assert "All missions" in shown.text
    _refused(await client.get("/missions/nobody"), 404, "NoSuchSaga")
    for name in ("map.png", "journal.json", "..%2Fmap.png"):
        assert (await client.get(f"/missions/m/files/{name}")).status_code == 404


def test_vendored_files_match_their_manifest() -> None:
    """Every vendored file has its hash and licence in the manifest, and no file is missing there."""
    place = pages.WEB_FOLDER / "static" / "vendor"
    manifest = json.loads((place / "manifest.json").read_text())
    for name, about in manifest.items():
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == about["sha256"]
        assert (place / about["licence_file"]).read_text()
    named = {*manifest, *(about["licence_file"] for about in manifest.values()), "manifest.json"}
    assert {path.name for path in place.iterdir()} == named


async def test_the_battery_of_a_robot_falls_during_its_mission(
    client: httpx.AsyncClient, app_bus: Bus
) -> None:
    """By what it has driven so far, not only when its mission ends."""
    choose_settings(battery_per_metre=2.0)
    await fleet.check_in("r1")
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    (robot,) = await fleet.robots()
    held = asdict(robot) | {"holder": "m"}
    del held["present"]
    await app_bus.command("HSET", app_bus.key("fleet"), "r1", json.dumps(held))

    async def shown() -> float:
        found = re.search(r'<meter [^>]*value="([0-9.]+)"', (await client.get("/fleet")).text)
        assert found
        return float(found[1])

    before = await shown()
    fields = {
        "event_type": "exploration:perform",
        "status": "progress",
        "correlation_id": "c",
        "request_id": "r",
        "payload": json.dumps({"fraction": 0.1, "robots": {"r1": {"driven_m": 5.0}}}),
    }
    await add_entry(app_bus, "saga:m:replies", fields)
    assert await shown() == pytest.approx(before - 10.0, abs=0.5)


async def test_the_fleet_and_the_areas_are_shown(client: httpx.AsyncClient) -> None:
    """Both lists are available to clients."""
    await fleet.check_in("r1")
    (robot,) = (await client.get("/api/fleet")).json()
    assert (robot["name"], robot["holder"], robot["present"]) == ("r1", "", True)
    assert (await client.get("/api/areas")).json() == ["room"]


async def test_nothing_is_accessible_without_the_token() -> None:
    """Without the right token only `/healthz` is accessible."""
    async with _client(web_token="s3cret") as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret2"}):
            answer = await client.get("/api/missions", headers=headers)
            assert answer.headers["www-authenticate"] == "Bearer"
            _refused(answer, 401, "Unauthorized")
        good = {"authorization": "Bearer s3cret"}
        assert (await client.get("/api/missions", headers=good)).status_code == 200
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({}, "evil.test", 421),
        ({}, "localhost:8080", 200),
        ({}, "127.0.0.1", 200),
        ({}, "[::1]:8080", 200),
        ({}, "localhost.evil.test", 421),
        ({}, "[::1", 421),
        ({"web_hosts": "mission.test, other.test"}, "OTHER.test:80", 200),
        ({"web_hosts": "mission.test"}, "localhost", 421),
        ({"web_host": "10.0.0.9"}, "10.0.0.9:8080", 200),
        ({"web_token": "t" * 22}, "any.test", 401),
    ],
)
async def test_only_names_of_this_server_are_answered(
    settings: dict[str, str], host: str, status: int
) -> None:
    """A foreign name that resolves to this server reads nothing and starts nothing."""
    async with _client(**({"web_hosts": ""} | settings)) as client:
        answer = await client.get("/api/missions", headers={"host": host})
        assert answer.status_code == status
        if status == 421:
            _refused(answer, 421, "UnknownHost")
            start = await client.post("/api/missions", json=_ROOM, headers={"host": host})
            assert start.status_code == 421


async def test_a_mission_links_to_the_pages_of_its_requests(client: httpx.AsyncClient) -> None:
    """The library's page is below `/operator`: every link of a mission leads somewhere."""
    started = await client.post("/api/missions", json=_ROOM)
    saga_id = started.json()["saga_id"]
    begun = await intend_next_step(saga_id)
    page = await client.get(f"/missions/{saga_id}")
    found = set(re.findall(r'href="(/operator/[^"#]*[?][^"]*)"', page.text))
    assert f"/operator/saga?id={saga_id}" in found
    assert f"/operator/request?id={begun.entries[0].request_id}" in found
    saga_page = await client.get(f"/operator/saga?id={saga_id}")
    assert saga_page.status_code == 200
    assert 'href="/operator/../"' in saga_page.text
    assert begun.entries[0].request_id in saga_page.text
    style = await client.get("/operator/style.css")
    assert style.headers["content-type"].startswith("text/css")


async def test_the_operators_page_is_protected_as_the_rest() -> None:
    """By the token, by the origin, and by the token of each form."""
    async with _client(web_token=_TOKEN) as client:
        assert (await client.get("/operator/requests")).status_code == 401
        assert (await client.get("/operator/style.css")).status_code == 200
        client.headers["authorization"] = f"Bearer {_TOKEN}"
        assert (await client.get("/operator/requests")).status_code == 200
        send = client.post
        foreign = {"origin": "http://evil.test"}
        form = {"id": "m"}
        assert (await send("/operator/saga/resume", data=form, headers=foreign)).status_code == 403
        assert (await send("/operator/saga/resume", data=form)).status_code == 403
        assert (await send("/operator/saga/resume", json=form)).status_code == 415


async def test_guesses_of_the_token_are_limited() -> None:
    """After some wrong ones of a client, more are not even compared; the right one still works."""
    right = {"authorization": f"Bearer {'t' * 22}"}
    async with _client(web_token="t" * 22) as client:
        found = [
            (await client.get("/api/missions", headers=headers)).status_code
            for number in range(20)
            for headers in ({"authorization": f"Bearer {number}"}, {"cookie": f"session={number}"})
        ]
        assert found[:5] == [401] * 5
        assert found.count(429) >= 25
        assert (await client.get("/api/missions", headers=right)).status_code == 200
        assert (await client.get("/api/missions")).status_code == 401, "no guess at all"


async def test_another_origin_is_refused(client: httpx.AsyncClient) -> None:
    """A page of another origin cannot start a mission; our own can."""
    for origin, status in (("http://mission.test", 202), ("http://evil.test", 403), ("null", 403)):
        answer = await client.post("/api/missions", json=_ROOM, headers={"origin": origin})
        assert answer.status_code == status
    assert len((await client.get("/api/missions")).json()) == 1


async def test_only_json_of_limited_size_is_accepted(client: httpx.AsyncClient) -> None:
    """Forms and oversized bodies, with or without content-length, are refused."""
    form = await client.post("/api/missions", data={"area": "room"})
    _refused(form, 415, "NotJson")
    large = json.dumps(_ROOM | {"area": "x" * 10_000_000}).encode()
    json_type = {"content-type": "application/json"}
    _refused(await client.post("/api/missions", content=large, headers=json_type), 413, "TooLarge")

    async def drip() -> AsyncIterator[bytes]:
        for at in range(0, len(large), MAX_BODY_BYTES // 2):
            yield large[at : at + MAX_BODY_BYTES // 2]

    answer = await client.post("/api/missions", content=drip(), headers=json_type)
    _refused(answer, 413, "TooLarge")


async def test_changes_of_one_client_are_rate_limited() -> None:
    """Changes are rate-limited, reads are not."""
    async with _client(web_requests_per_s=2.0) as client:
        statuses = [
            (await client.post("/api/missions/nobody/resume", json={})).status_code
            for _ in range(20)
        ]
        assert statuses[:2] == [404, 404]
        assert 429 in statuses
        assert (await client.get("/api/missions")).status_code == 200


def test_a_bucket_refills() -> None:
    """Each client has its own bucket, which refills at the limit rate."""
    clock = iter([0.0, 0.0, 0.0, 0.0, 0.4, 0.5]).__next__
    buckets = RateLimiter(2.0, clock)
    assert [buckets.take("a"), buckets.take("a"), buckets.take("a")] == [True, True, False]
    assert buckets.take("b")
    assert [buckets.take("a"), buckets.take("a")] == [False, True]


async def test_the_number_of_open_missions_is_limited() -> None:
    """Another mission is refused until one has ended."""
    async with _client(web_open_missions=1) as client:
        key = {"idempotency-key": "only"}
        first = await client.post("/api/missions", json=_ROOM, headers=key)
        again = await client.post("/api/missions", json=_ROOM, headers=key)
        assert (again.status_code, again.json()) == (202, first.json())
        refused = await client.post("/api/missions", json=_ROOM)
        assert int(refused.headers["retry-after"]) > 0
        assert "wait" in _refused(refused, 503, "TooManyMissions")
        await mission_runner().compensate(first.json()["saga_id"], "enough")
        assert (await client.post("/api/missions", json=_ROOM)).status_code == 202


async def test_an_unavailable_server_is_reported(client: httpx.AsyncClient) -> None:
    """The response is 503, not 500."""
    choose_settings(redis_url="redis://127.0.0.1:1/0", call_timeout_s=0.1)
    _refused(await client.get("/api/missions"), 503, "ServerUnavailable")


async def test_a_server_that_stalls_is_reported_within_a_second(client: httpx.AsyncClient) -> None:
    """A page asks for the time each second: it answers only while the server of missions does."""
    assert abs((await client.get("/api/time")).json()["now"] - time.time()) < 60
    with EmbeddedServer() as stalled:
        choose_settings(redis_url=stalled.url)
        assert (await client.get("/api/time")).status_code == 200
        os.kill(stalled.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            answer = await client.get("/api/time")
            assert time.monotonic() - started < 1.8
        finally:
            os.kill(stalled.pid, signal.SIGCONT)
    assert answer.status_code == 503


async def test_pages_of_one_machine_know_how_many_they_are() -> None:
    """One that shows its own pages, also by a socket file, shares its processors with them."""
    limits = StreamLimits(Settings())
    here: Scope = {"client": ("127.0.0.1", 5000), "server": ("127.0.0.1", 8080)}
    by_its_name: Scope = {"client": ("10.0.0.9", 5000), "server": ("10.0.0.9", 8080)}
    elsewhere: Scope = {"client": ("10.0.0.7", 5000), "server": ("10.0.0.9", 8080)}
    for scope, counted in ((here, 2), (by_its_name, 2), (elsewhere, 0), ({}, 2)):
        assert limits.open_here(scope) == 0
        with limits.take(client_of(scope), "m"), limits.take(client_of(scope), "m"):
            assert limits.open_here(scope) == counted
    async with _client() as client:
        assert (await client.get("/api/time")).json()["pages_here"] == 1


async def test_the_description_names_every_path(client: httpx.AsyncClient) -> None:
    """Each path lists its errors, and no external documentation page is loaded."""
    described = (await client.get("/api/openapi.json")).json()
    assert "/api/missions/{saga_id}/events" in described["paths"]
    for path, verbs in described["paths"].items():
        for verb in verbs.values():
            assert "422" in verb["responses"], path
    answer = await client.get("/docs")
    _refused(answer, 404, "NotFound")
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.fixture
def fresh() -> Iterator[None]:
    """Reset the settings, as in a new process."""
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_a_token_is_required_beyond_loopback(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token the command exits before it listens."""
    monkeypatch.setattr("app.cli.base.configure", lambda settings, service: None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "mission.example"):  # noqa: S104 - refused
        result = CliRunner().invoke(cli, ["serve", "--host", host])
        assert result.exit_code == 2
        assert "WEB_TOKEN" in result.stderr


@pytest.mark.parametrize(
    "token",
    ["abc", "t" * 40, "0123456789" * 3, "4b1d9e0c7f2a83b65d1e9c40a7f38b", "xW3r-8kQz_P1mYb6TnVh0"],
)
def test_a_token_that_could_be_guessed_is_refused(
    fresh: None, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """The message says how to make a better one."""
    monkeypatch.setattr("app.cli.base.configure", lambda settings, service: None)
    result = CliRunner().invoke(cli, ["serve"], env={"WEB_TOKEN": token})
    assert result.exit_code == 2
    assert "secrets.token_urlsafe()" in result.stderr


@pytest.mark.parametrize(
    "token",
    [
        "xW3r-8kQz_P1mYb6TnVh0A",
        "4b1d9e0c7f2a83b65d1e9c40a7f38b2e",
        "4B1D9E0C7F2A83B65D1E9C40A7F38B2E",
    ],
)
def test_a_random_token_is_taken(token: str) -> None:
    """In each of the usual alphabets."""
    assert not is_guessable(token)


def test_a_taken_web_port_is_named(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the settings to change; there is no traceback."""
    monkeypatch.setattr("app.cli.base.configure", lambda settings, service: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(cli, ["serve", "--port", str(port)])
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"mission: WEB_HOST, WEB_PORT: cannot listen on 127.0.0.1 port {port}: Address already"
    )
    assert result.stderr.count("\n") == 1


async def test_a_part_of_a_recording_is_read_in_pieces(
    client: httpx.AsyncClient, app_bus: Bus
) -> None:
    """From one entry up to another; an answer ends where it is large."""
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    stream = get_settings().recording_stream("m")
    ids = [
        await add_entry(app_bus, stream, {"payload": json.dumps({"n": n, "x": "x" * 60_000})})
        for n in range(9)
    ]
    found, after = [], ids[1]
    sizes = []
    while after != ids[7]:
        answer = await client.get(f"/api/missions/m/frames?after={after}&until={ids[7]}")
        part = answer.json()
        sizes.append(len(answer.content))
        found += [one["payload"]["n"] for one in part]
        after = part[-1]["entry_id"]
    assert found == [2, 3, 4, 5, 6, 7]
    assert len(sizes) == 2
    assert max(sizes) < 300_000
    assert (await client.get(f"/api/missions/m/frames?after={ids[7]}&until={ids[7]}")).json() == []
    for wrong in ("after=1&until=2-0", "after=1-0", f"after=1-0&until={2**64}-0"):
        assert (await client.get(f"/api/missions/m/frames?{wrong}")).status_code == 422, wrong
    assert (await client.get("/api/missions/no/frames?after=0-0&until=1-0")).status_code == 404


@pytest.mark.parametrize("entry_id", ["5-0", "5-7", f"5-{2**64 - 1}"])
async def test_one_entry_is_read_by_its_id(
    client: httpx.AsyncClient, app_bus: Bus, entry_id: str
) -> None:
    """As its event has it, whatever its id; what is not there is a 404."""
    await client.post("/api/missions", json=_ROOM, headers={"idempotency-key": "m"})
    await add_entry(
        app_bus, "saga:m:replies", {"payload": '{"n":1}', "status": "start"}, entry_id=entry_id
    )
    entry = (await client.get(f"/api/missions/m/entries/stage/{entry_id}")).json()
    assert entry == {"payload": {"n": 1}, "status": "start", "entry_id": entry_id}
    for wrong in (f"frame/{entry_id}", "stage/4-0", "stage/0-0"):
        answer = await client.get(f"/api/missions/m/entries/{wrong}")
        assert "has no entry" in _refused(answer, 404, "NotFound")
    assert (await client.get(f"/api/missions/m/entries/other/{entry_id}")).status_code == 422
