"""The pages: missions, one mission, and the fleet, rendered on the server as HTML.

Pages change state only through the API. Parts that change often have separate routes below
`/parts`, which the browser polls.
"""

import asyncio
import json
import math
import time
import uuid
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathOf
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse

from app.config import get_settings
from app.missions import artifacts
from app.missions.approval import is_awaited
from app.missions.mission import MAX_ROBOTS
from app.missions.mission_saga import APPROVAL, declaration_of, mission_runner, mission_saga
from app.missions.reports import duration_of, result_of, summary_of
from app.observability.waterfall import find_waterfall, trace_files
from app.robots import fleet
from app.web.deliveries import deliveries_of, waits_of
from app.web.mission_history import json_lines
from app.web.mission_list import MissionFilter, Sort, Status, find_missions
from app.web.mission_progress import driven_of
from app.web.models import Key
from app.web.start_form import picture_of, start_facts
from app.web.timeline import timeline_of
from sagastream.saga import Journal
from sagastream.web.rendering import Renderer, mark_of

# Below it is the library's page: requests, sagas, dead letters and listeners.
OPERATOR_PATH = "/operator"
WEB_FOLDER = Path(__file__).resolve().parent
_FILES = frozenset({"map.png", "map.pgm", "map.yaml", "report.json"})
_PERCENT = 100.0
_MARKS = {"waiting": "◔", "to do": "○", "done": "✓", "undone": "↩", "undo failed": "⚠"}

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
SagaId = Annotated[Key, PathOf()]


def seconds(value: float | None) -> str:
    """Format a duration for display."""
    if value is None:
        return "-"
    if value < 10:  # noqa: PLR2004 - tenths matter only below
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


render = Renderer(
    WEB_FOLDER / "templates",
    filters={
        "seconds": seconds,
        "percent": lambda share: f"{share * _PERCENT:.0f} %",
        # Rounded down: what is nearly all is not all.
        "percent1": lambda share: f"{math.floor(share * _PERCENT * 10) / 10:.1f} %",
        "mark": lambda state: _MARKS.get(state) or mark_of(state),
    },
    product="Mission control",
    start="All missions",
    assets=OPERATOR_PATH,
    sections=(
        ("/", "missions", "Missions"),
        ("/fleet", "fleet", "Fleet"),
        (f"{OPERATOR_PATH}/", "operator", "Requests"),
    ),
)


@router.get("/")
async def missions(request: Request, given: Annotated[MissionFilter, Query()]) -> Response:
    """Show missions and the form that starts one."""
    return render.page(
        request,
        "missions",
        here="missions",
        **await _list_values(given),
        start=await start_facts(),
        statuses=get_args(Status),
        sorts=get_args(Sort),
        most=MAX_ROBOTS,
        key=str(uuid.uuid4()),
    )


@router.get("/parts/missions")
async def mission_rows(request: Request, given: Annotated[MissionFilter, Query()]) -> Response:
    """Render the rows of the missions table."""
    return render.page(request, "_missions", **await _list_values(given))


@router.get("/parts/start")
async def start_hints(request: Request) -> Response:
    """Render what would keep a mission from running, and the robots that are free."""
    return render.page(request, "_start", start=await start_facts())


@router.get("/areas/{area}.png")
async def area_picture(area: Annotated[str, PathOf(max_length=64)]) -> Response:
    """Return the picture of a map that missions may name."""
    picture = await asyncio.to_thread(picture_of, area)
    return Response(picture, media_type="image/png")


@router.get("/missions/{saga_id}")
async def mission(request: Request, saga_id: SagaId) -> Response:
    """Show one mission, live or replayed: map, steps, trace and stream entries."""
    return render.page(request, "mission", here="missions", **await _mission_values(saga_id))


@router.get("/parts/missions/{saga_id}/steps")
async def steps(request: Request, saga_id: SagaId) -> Response:
    """Render a mission's steps and the actions on it."""
    return render.page(request, "_steps", **await _mission_values(saga_id))


@router.get("/parts/missions/{saga_id}/status")
async def status_strip(request: Request, saga_id: SagaId) -> Response:
    """Render a mission's state, its duration, and what it has achieved."""
    return render.page(request, "_status", **await _mission_values(saga_id))


@router.get("/parts/missions/{saga_id}/trace")
async def trace(request: Request, saga_id: SagaId) -> Response:
    """Render the waterfall of a mission's trace, if this machine has its spans."""
    settings = get_settings()
    names = [step.name for step in mission_saga(settings).steps]
    files = trace_files(settings.trace_file, settings.trace_dir)
    waterfall = await asyncio.to_thread(find_waterfall, saga_id, files, names)
    return render.page(request, "_trace", waterfall=waterfall)


@router.get("/parts/missions/{saga_id}/deliveries")
async def deliveries(request: Request, saga_id: SagaId) -> Response:
    """Render a mission's open requests with their consumers, and its dead letters."""
    journal = await mission_runner().journal(saga_id)
    return render.page(request, "_deliveries", of=await deliveries_of(journal))


@router.get("/missions/{saga_id}/entries.jsonl")
async def entries(saga_id: SagaId) -> Response:
    """Return all stages and transitions of a mission, one JSON object per line."""
    await mission_runner().journal(saga_id)
    name = f'attachment; filename="{saga_id}.jsonl"'
    headers = {"content-disposition": name}
    return StreamingResponse(json_lines(saga_id), 200, headers, "application/jsonl")


@router.get("/missions/{saga_id}/files/{name}")
async def file(saga_id: SagaId, name: str) -> Response:
    """Return a result file of a mission."""
    if name not in await asyncio.to_thread(_files_of, saga_id):
        raise HTTPException(404, f"no file {name} of mission {saga_id} on this machine")
    out_dir = get_settings().out_dir
    return FileResponse(await asyncio.to_thread(artifacts.folder_of, out_dir, saga_id) / name)


@router.get("/fleet")
async def robots(request: Request) -> Response:
    """Show the robots and the missions that hold them."""
    return render.page(request, "fleet", here="fleet", robots=await _robot_values())


@router.get("/parts/fleet")
async def robot_rows(request: Request) -> Response:
    """Render the rows of the robots table."""
    return render.page(request, "_fleet", robots=await _robot_values())


@router.get("/login")
async def login(request: Request) -> Response:
    """Show the form that asks for the token."""
    return render.page(request, "login", here="login")


async def _list_values(given: MissionFilter) -> dict[str, Any]:
    query = given.model_dump(exclude_defaults=True, exclude={"page"})
    return {"found": await find_missions(given), "given": given, "query": urlencode(query)}


async def _mission_values(saga_id: str) -> dict[str, Any]:
    journal = await mission_runner().journal(saga_id)
    settings = get_settings()
    summary = summary_of(journal)
    return {
        "mission": summary,
        "correlation_id": journal.correlation_id,
        "error": journal.error,
        "duration_s": duration_of(journal),
        "is_live": journal.status in {"running", "compensating"},
        "result": result_of(journal),
        "timeline": timeline_of(declaration_of(journal), journal),
        "decides_within_s": _left_to_decide_s(journal),
        "waits_for": await waits_of(journal),
        "grafana": _grafana_url(settings.grafana_url, summary["trace_id"]),
        "files": await asyncio.to_thread(_files_of, saga_id),
    }


def _left_to_decide_s(journal: Journal) -> float | None:
    """Seconds that are left to approve or reject a mission; None if it does not wait for that."""
    entry = journal.last(APPROVAL, "forward")
    if entry is None or not is_awaited(journal):
        return None
    timeout_s = entry.payload.get("timeout_s")
    if not isinstance(timeout_s, int | float):
        return 0.0
    return max(0.0, entry.started + timeout_s - time.time())


def _files_of(saga_id: str) -> list[str]:
    folder = artifacts.folder_of(get_settings().out_dir, saga_id)
    return sorted(name for name in _FILES if (folder / name).is_file())


def _grafana_url(address: str, trace_id: str) -> str:
    """Return the URL of a trace in Grafana, in the data source `tempo` of deploy/grafana."""
    if not address:
        return ""
    query = {"refId": "A", "queryType": "traceql", "query": trace_id}
    pane = {"datasource": "tempo", "queries": [query], "range": {"from": "now-7d", "to": "now"}}
    panes = quote(json.dumps({"mission": pane}))
    return f"{address.rstrip('/')}/explore?schemaVersion=1&orgId=1&panes={panes}"


async def _robot_values() -> list[dict[str, Any]]:
    settings, now, team = get_settings(), time.time(), await fleet.robots()
    # The fleet's record of a robot changes at the end of its mission.
    driven = {
        holder: await driven_of(holder) for holder in {robot.holder for robot in team} if holder
    }
    return [
        {
            "name": robot.name,
            "battery": max(
                0.0,
                robot.charge(now, settings)
                - driven.get(robot.holder, {}).get(robot.name, 0.0) * settings.battery_per_metre,
            ),
            "present": robot.present,
            "holder": robot.holder,
            "since_s": now - robot.since,
        }
        for robot in team
    ]
