"""The pages: missions, one mission, the fleet, as HTML that the server renders.

They show what the API says, and change things through it alone. What changes often is a part of
its own, which the browser asks for again.
"""

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathOf
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.templating import Jinja2Templates

from app.config import get_settings
from app.exploration.map_files import known_maps
from app.missions import artifacts
from app.missions.mission_saga import mission_runner, mission_saga
from app.missions.summaries import row_of
from app.observability.waterfall import find_story, trace_files
from app.orchestrator import MOST_ROBOTS
from app.robots import fleet
from app.web.deliveries import deliveries_of
from app.web.mission_progress import missions_in
from app.web.models import Key
from app.web.timeline import timeline_of

HERE = Path(__file__).resolve().parent
_FILES = frozenset({"map.png", "map.pgm", "map.yaml", "report.json"})
_PERCENT = 100.0

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
templates = Jinja2Templates(directory=HERE / "templates")
SagaId = Annotated[Key, PathOf()]


def seconds(value: float | None) -> str:
    """A duration for people."""
    if value is None:
        return "-"
    if value < 10:  # noqa: PLR2004 - below, a tenth says something
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


templates.env.filters["seconds"] = seconds
templates.env.filters["percent"] = lambda share: f"{share * _PERCENT:.0f} %"


@router.get("/")
async def missions(request: Request, status: Annotated[str, Query(max_length=20)] = "") -> Response:
    """All missions, and a form that starts one."""
    areas = await asyncio.to_thread(known_maps, get_settings().map_dir)
    return _page(
        *(request, "missions.html"),
        missions=await missions_in(status),
        status=status,
        areas=areas,
        most=MOST_ROBOTS,
        key=str(uuid.uuid4()),
    )


@router.get("/parts/missions")
async def mission_rows(
    request: Request, status: Annotated[str, Query(max_length=20)] = ""
) -> Response:
    """The rows of the missions."""
    return _page(request, "_missions.html", missions=await missions_in(status), status=status)


@router.get("/missions/{saga_id}")
async def mission(request: Request, saga_id: SagaId) -> Response:
    """One mission: its map, its steps, its trace, its entries; live or replayed."""
    return _page(request, "mission.html", **await _mission(saga_id))


@router.get("/parts/missions/{saga_id}/steps")
async def steps(request: Request, saga_id: SagaId) -> Response:
    """Where a mission stands, and what can be done about it."""
    return _page(request, "_steps.html", **await _mission(saga_id))


@router.get("/parts/missions/{saga_id}/trace")
async def trace(request: Request, saga_id: SagaId) -> Response:
    """The waterfall of a mission's spans, where they are kept on this machine."""
    settings = get_settings()
    names = [step.name for step in mission_saga(settings).steps]
    files = trace_files(settings.trace_file, settings.trace_dir)
    story = await asyncio.to_thread(find_story, saga_id, files, names)
    return _page(request, "_trace.html", story=story)


@router.get("/parts/missions/{saga_id}/deliveries")
async def deliveries(request: Request, saga_id: SagaId) -> Response:
    """Which of a mission's requests are open and who has them, and its dead letters."""
    journal = await mission_runner().journal(saga_id)
    return _page(request, "_deliveries.html", **await deliveries_of(journal))


@router.get("/missions/{saga_id}/files/{name}")
async def file(saga_id: SagaId, name: str) -> Response:
    """A file that a mission left behind."""
    path = artifacts.folder(get_settings().out_dir, saga_id) / name
    if name not in _FILES or not path.is_file():
        raise HTTPException(404, f"mission {saga_id} left no file {name} on this machine")
    return FileResponse(path)


@router.get("/fleet")
async def robots(request: Request) -> Response:
    """The robots, who holds them, since when."""
    return _page(request, "fleet.html", robots=await _robots())


@router.get("/parts/fleet")
async def robot_rows(request: Request) -> Response:
    """The rows of the robots."""
    return _page(request, "_fleet.html", robots=await _robots())


@router.get("/login")
async def login(request: Request) -> Response:
    """Where a browser is asked for the token."""
    return _page(request, "login.html")


def _page(request: Request, template: str, **values: Any) -> Response:
    return templates.TemplateResponse(request, template, values)


async def _mission(saga_id: str) -> dict[str, Any]:
    journal = await mission_runner().journal(saga_id)
    settings = get_settings()
    row = row_of(journal)
    place = artifacts.folder(settings.out_dir, saga_id)
    return {
        "mission": row,
        "correlation_id": journal.correlation_id,
        "error": journal.error,
        "timeline": timeline_of(mission_saga(settings), journal),
        "grafana": _grafana(settings.grafana_url, row["trace_id"]),
        "files": sorted(name for name in _FILES if (place / name).is_file()),
    }


def _grafana(address: str, trace_id: str) -> str:
    """Where Grafana shows a trace, by the data source that deploy/grafana names `tempo`."""
    if not address:
        return ""
    query = {"refId": "A", "queryType": "traceql", "query": trace_id}
    pane = {"datasource": "tempo", "queries": [query], "range": {"from": "now-7d", "to": "now"}}
    panes = quote(json.dumps({"mission": pane}))
    return f"{address.rstrip('/')}/explore?schemaVersion=1&orgId=1&panes={panes}"


async def _robots() -> list[dict[str, Any]]:
    settings, now = get_settings(), time.time()
    return [
        {
            "name": robot.name,
            "battery": robot.charge(now, settings),
            "present": robot.present,
            "holder": robot.holder,
            "since_s": now - robot.since,
        }
        for robot in await fleet.robots()
    ]
