"""Malformed entries, records and blobs: each is shown as such, and hides nothing else."""

import asyncio
import base64
import hashlib
import json
import resource
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app import redis_utils
from app.config import choose_settings, get_settings
from app.exploration.grid import MAX_CELLS, GridFrame
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.missions.frames import BadFrame, FrameDecoder
from app.missions.mission_saga import mission_runner, mission_saga
from app.missions.recording import read_frames
from app.redis_utils import BlobInvalid, BlobMissing, get_blob, put_blob
from app.robots import fleet
from app.web.api import make_app
from sagastream import Bus
from sagastream.saga.journal import intend, next_action
from sagastream.saga.store import SagaStore
from tests.plain_client import add_entry

_BAD_PAYLOADS = (
    *("{", "[1]", "null", '"text"', "", "NaN", '{"fraction":NaN,"robots":{"r1":{"driven_m":1}}}'),
    '{"robots":{"r1":{}}}',
    '{"robots":{"r1":null},"fraction":0.5}',
    '{"robots":{"r1":{"driven_m":"far"}},"fraction":"much"}',
    '{"robots":{"r1":{"driven_m":1e999}},"fraction":0.5}',
    '{"robots":[],"fraction":[]}',
    '{"a":' + "[" * 40 + "]" * 40 + "}",
    b"\xff\xfe{}",
)


@pytest.fixture
def area(app_bus: Bus, tmp_path: Path) -> str:
    """A floor of one room."""
    floor = draw_rooms(1)
    save_map(tmp_path / "room.yaml", floor.grid, floor.frame)
    choose_settings(map_dir=tmp_path, web_hosts="mission.test")
    return "room"


def _client() -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(get_settings()), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://mission.test")


async def _events(client: httpx.AsyncClient, mission: str) -> list[dict[str, Any]]:
    answer = await asyncio.wait_for(client.get(f"/api/missions/{mission}/events"), 20)
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    # As a browser reads it: NaN and Infinity are no JSON.
    return [json.loads(line[6:], parse_constant=pytest.fail) for line in lines]


async def _intend_first_step(mission: str) -> None:
    """Write the intent of a mission's first step, without its command."""
    saga = mission_saga(get_settings())
    store = SagaStore(redis_utils.get_bus(), saga.name, wake_after_s=60, keep_s=60, keep_moves_s=60)
    current = await store.get(mission)
    action = next_action(saga, current.journal)
    assert action is not None
    begun = intend(saga, current.journal, action, now=1.0, max_attempts=5)
    await store.change(current, lambda _: begun)


@pytest.mark.invariant(14)
@pytest.mark.parametrize("payload", _BAD_PAYLOADS)
async def test_a_malformed_stage_hides_nothing_else(
    app_bus: Bus, area: str, sent: list[tuple[str, str]], payload: str | bytes
) -> None:
    """The lists of all missions, on the page and in the API, and the events of that mission."""
    good = {"fraction": 0.25, "robots": {"r1": {"driven_m": 2.0}}}
    async with _client() as client:
        for mission in ("runs", "ends"):
            started = await client.post(
                "/api/missions",
                json={"area": area, "robots": 1},
                headers={"idempotency-key": mission},
            )
            assert started.status_code == 202
            bad = {"request_id": "r", "status": "progress", "payload": payload}
            await add_entry(app_bus, f"saga:{mission}:replies", bad | {"payload": json.dumps(good)})
            await add_entry(app_bus, f"saga:{mission}:replies", bad)
        await _intend_first_step("runs")
        listed = {row["saga_id"]: row for row in (await client.get("/api/missions")).json()}
        assert listed.keys() == {"runs", "ends"}
        assert listed["runs"]["driven_m"] == 2.0
        for page in ("/", "/parts/missions", "/missions/runs"):
            assert (await client.get(page, headers={"accept": "text/html"})).status_code == 200
        await client.post("/api/missions/ends/cancel", json={})
        events = await _events(client, "ends")
        assert events[-1] == {}, "it ends"
        assert any(event.get("payload") == good for event in events)


_STRANGE_INPUTS: tuple[dict[str, Any], ...] = (
    {"area": 5, "robot_count": "two", "seed": [], "known_poses": None},
    {"area": None, "robot_count": 10**30, "seed": True, "known_poses": 1},
    {},
)


@pytest.mark.invariant(14)
@pytest.mark.parametrize("given", _STRANGE_INPUTS)
async def test_a_mission_with_strange_parameters_hides_no_other(
    app_bus: Bus, area: str, sent: list[tuple[str, str]], given: dict[str, Any]
) -> None:
    """It is shown without them."""
    await mission_runner().start(given, saga_id="strange")
    async with _client() as client:
        await client.post(
            "/api/missions",
            json={"area": area, "robots": 1},
            headers={"idempotency-key": "ours"},
        )
        listed = {row["saga_id"]: row for row in (await client.get("/api/missions")).json()}
        assert listed["ours"]["area"] == area
        assert listed["strange"]["area"] is None
        for path in ("/", "/missions/strange", "/api/missions/strange"):
            assert (await client.get(path)).status_code == 200


@pytest.mark.invariant(14)
async def test_keys_of_another_type_hide_nothing_else(
    app_bus: Bus, area: str, sent: list[tuple[str, str]]
) -> None:
    """The replies of one mission, its record of a request, dead letters; and the fleet, by name."""
    async with _client() as client:
        for mission in ("odd", "ours"):
            await client.post(
                "/api/missions",
                json={"area": area, "robots": 1},
                headers={"idempotency-key": mission},
            )
        await _intend_first_step("odd")
        (entry,) = (await mission_runner().journal("odd")).entries
        for name in (
            *("saga:odd:replies", f"request:{entry.request_id}", "fleet"),
            f"{get_settings().resources_stream}:dead",
        ):
            await app_bus.command("SET", app_bus.key(name), "text", "EX", 60)
        rows = (await client.get("/api/missions")).json()
        assert {row["saga_id"] for row in rows} == {"odd", "ours"}
        for path in ("/", "/missions/odd", "/parts/missions/odd/deliveries"):
            assert (await client.get(path)).status_code == 200
        deliveries = await client.get("/parts/missions/odd/deliveries")
        assert "unreadable: " in deliveries.text
        answer = await client.get("/api/fleet")
        assert (answer.status_code, answer.json()["title"]) == (502, "ServerError")


@pytest.mark.invariant(14)
@pytest.mark.parametrize(
    "record",
    [
        *("[" * 100_000, '{"name":' + "[" * 100_000),
        *("{", "[]", "{}", '{"name":"r2"}', "\xff"),
        '{"name":"r2","battery":"full","x":0,"y":0}',
        '{"name":"r2","battery":NaN,"x":0,"y":0}',
        '{"name":"other","battery":1,"x":0,"y":0}',
        '{"name":"r2","battery":1,"x":0,"y":0,"holder":5}',
        '{"name":"r2","battery":1,"x":0,"y":0,"wheels":5}',
    ],
)
async def test_a_malformed_robot_hides_no_other(app_bus: Bus, area: str, record: str) -> None:
    """It is left out of the fleet, and named in the log."""
    await fleet.check_in("r1")
    await app_bus.command("HSET", app_bus.key("fleet"), "r2", record.encode("latin-1"))
    assert [robot.name for robot in await fleet.robots()] == ["r1"]
    assert await fleet.holder("r2") == ""
    async with _client() as client:
        assert [robot["name"] for robot in (await client.get("/api/fleet")).json()] == ["r1"]
        assert (await client.get("/fleet", headers={"accept": "text/html"})).status_code == 200


async def _store(bus: Bus, reference: str, stored: bytes) -> None:
    await bus.command("SET", bus.key(f"blob:{reference}"), stored, "EX", 60)


@pytest.mark.invariant(14)
async def test_a_blob_is_what_its_reference_says(app_bus: Bus) -> None:
    """Otherwise the error says what is wrong; no more than the limit is decompressed."""
    reference = await put_blob(b"cells")
    assert await get_blob(reference) == b"cells"
    other = hashlib.sha256(b"other").hexdigest()
    for stored, why in (
        (zlib.compress(b"cells"), "another content"),
        (b"no zlib", "cannot be read"),
        (zlib.compress(b"other")[:-2], "cut off"),
    ):
        await _store(app_bus, other, stored)
        with pytest.raises(BlobInvalid, match=why):
            await get_blob(other)
    for wrong in ("", "x", "../r1", "0" * 63, 5, None, ["a"]):
        with pytest.raises(BlobInvalid, match="no reference"):
            await get_blob(wrong)  # type: ignore[arg-type]
    with pytest.raises(BlobMissing):
        await get_blob("0" * 64)


@pytest.mark.invariant(14)
async def test_a_packed_bomb_costs_no_more_memory_than_the_limit(
    app_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte that unpacks to a thousand."""
    bomb = zlib.compress(bytes(2**30), 9)
    assert len(bomb) < 2**21
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await _store(app_bus, "0" * 64, bomb)
    with pytest.raises(BlobInvalid, match="larger than the limit"):
        await get_blob("0" * 64)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 4 * redis_utils.MAX_BLOB_BYTES / 1000


_GRID = GridFrame(4, 4, 0.05).to_dict()


@pytest.mark.invariant(14)
@pytest.mark.parametrize(
    "changed",
    [
        {"rows": 50_000, "cols": 50_000},
        *({"rows": value} for value in (0, -1, 2.5, "4", None, True, 10**30)),
        *({"resolution": value} for value in (0, -1, "1", float("nan"), float("inf"))),
        {"origin_x": float("inf")},
        {"more": 1},
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(changed: dict[str, Any]) -> None:
    """Before any memory is taken for its cells."""
    with pytest.raises((TypeError, ValueError)):
        GridFrame.from_dict(_GRID | changed)
    with pytest.raises(BadFrame):
        FrameDecoder().decode({"grid": _GRID | changed})


def _cells(**changed: Any) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(bytes(16))).decode()
    return {"cells": {"row0": 0, "col0": 0, "shape": [4, 4], "data": data} | changed}


_BAD_PIECES: tuple[dict[str, Any], ...] = (
    *(_cells(row0=value) for value in (-1, 1, "0", None, 10**30)),
    *(_cells(shape=value) for value in ([4], [4, 5], [-4, -4], "44", [MAX_CELLS, MAX_CELLS])),
    *(_cells(data=value) for value in ("", "AAAA", "é", 5, None)),
    _cells(data=base64.b64encode(zlib.compress(bytes(10**8))).decode()),
    {"cells": 5},
    {"paths": 5},
    {"paths": {"r1": [1]}},
    {"simulated_s": 1.0},
    {"simulated_s": 1.0, "fraction": 0, "frontiers": [], "robots": [{}]},
)


@pytest.mark.invariant(14)
@pytest.mark.parametrize("piece", _BAD_PIECES)
async def test_a_malformed_piece_of_a_recording_hides_no_frame(
    app_bus: Bus, piece: dict[str, Any]
) -> None:
    """It is left out; the frames before and after it are read."""
    frame = {"simulated_s": 1.0, "fraction": 0.5, "robots": [], "frontiers": []}
    stream = get_settings().recording_stream("m")
    for payload in ({"grid": _GRID} | _cells() | frame, piece, frame | {"simulated_s": 2.0}):
        fields = {"request_id": "r", "status": "progress", "payload": json.dumps(payload)}
        await add_entry(app_bus, stream, fields)
    await add_entry(app_bus, stream, {"status": "?"})
    found = [frame async for _, frame, _ in read_frames("m")]
    assert [each.simulated_s for each in found] == [1.0, 2.0]
    assert found[-1].cells.shape == (4, 4)
    assert not np.any(found[-1].cells)
    await app_bus.command("DEL", app_bus.key(stream))
