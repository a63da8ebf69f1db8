"""The web application: the HTTP API for missions and the fleet, event streams, and the pages."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Body, Depends, FastAPI, Header, Path, Query, Request, Response
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import Link, SpanKind, get_current_span
from sse_starlette import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from app.config import Settings, get_settings
from app.event_types import RESOURCES_RELEASE
from app.exploration.map_files import known_maps
from app.missions.approval import decide
from app.missions.mission import run_saga
from app.missions.mission_saga import declaration_of, mission_runner
from app.missions.reports import requests_of, summary_of
from app.redis_utils import get_bus, request_and_reply
from app.robots import fleet
from app.web import pages, problems
from app.web.event_stream import MissionEvents
from app.web.limits import StreamLimits, TooManyMissions
from app.web.mission_history import position_of, read_frames_between, read_one
from app.web.mission_list import MissionFilter, find_missions
from app.web.models import (
    CancelMission,
    EntryIdText,
    Key,
    Login,
    MissionDetail,
    MissionRow,
    Problem,
    RejectMission,
    ReleasedRobots,
    ReleaseRobot,
    ServerTime,
    StartedMission,
    StartMission,
    StepRequest,
)
from sagastream.errors import NoSuchSaga
from sagastream.saga import Journal
from sagastream.web.access import LOOPBACK_NAMES, AccessMiddleware, AccessRules
from sagastream.web.application import make_mounted_page
from sagastream.web.forwarded import ForwardedMiddleware, networks_of
from sagastream.web.rate_limits import client_of
from sagastream.web.rendering import STATIC_PATHS
from sagastream.web.tokens import equal_secrets, session_cookie_of

_TRACER = trace.get_tracer("mission")
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": why}
    for status, why in {
        401: "the token is missing or wrong",
        403: "the request comes from another origin",
        404: "there is no such mission",
        409: "the id belongs to another mission, or its journal is `unreadable` for this release",
        413: "the body is too large",
        415: "the body is not JSON",
        422: "the request does not match this description",
        414: "the address is too long",
        429: "too many requests or event streams; `Retry-After` says when to try again",
        431: "the headers are too large",
        502: "a key of the Redis or Valkey server has something else than belongs there, or a handler "
        "failed",
        504: "no handler answered in time",
        503: "the Redis or Valkey server does not answer, or too many missions or event streams "
        "are open; `Retry-After` says when to try again",
    }.items()
}
_COOKIE = "session"
_GROUP = "sagastream"
_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
# A page takes longer silence for a lost connection.
_CONTACT_S = 1.0
SagaId = Annotated[Key, Path(description="The mission's id.")]


class TracingMiddleware:
    """Starts a new trace for each request, linked to the caller's trace.

    A caller's sampling decision therefore does not affect what is recorded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application within a server span."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        caller = get_current_span(extract(carrier)).get_span_context()
        links = [Link(caller)] if caller.is_valid else []
        with _TRACER.start_as_current_span(
            scope["method"], context=otel_context.Context(), kind=SpanKind.SERVER, links=links
        ) as span:
            await self._app(scope, receive, send)
            route = getattr(scope.get("route"), "path", "")
            span.update_name(f"{scope['method']} {route}".strip())


def make_app(settings: Settings) -> FastAPI:
    """Create the web application.

    Args:
        settings: The token and the limits.

    Raises:
        ValueError: `web_proxies` names what is no address and no network.
    """
    events = MissionEvents()

    @asynccontextmanager
    async def connected(_app: FastAPI) -> AsyncIterator[None]:
        async with get_bus():
            yield
            await events.close()

    app = FastAPI(
        title="Mission control",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=connected,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        responses=_PROBLEMS,
        middleware=[
            Middleware(
                ForwardedMiddleware,
                proxies=networks_of(settings.web_proxies),
                root_path=settings.web_root_path,
            ),
            Middleware(TracingMiddleware),
            Middleware(AccessMiddleware, rules=_rules(settings), refuse=problems.respond),
        ],
    )
    app.state.events = events
    app.state.stream_limits = StreamLimits(settings)
    for kind, handler in problems.HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.get("/healthz")(_alive)
    app.get("/api/time")(_time)
    app.get("/api/missions")(_list)
    app.post("/api/missions", status_code=202)(_start)
    app.get("/api/missions/{saga_id}")(_show)
    app.post("/api/missions/{saga_id}/cancel", status_code=202)(_cancel)
    app.post("/api/missions/{saga_id}/resume", status_code=202)(_resume)
    app.post("/api/missions/{saga_id}/compensate", status_code=202)(_compensate)
    app.post("/api/missions/{saga_id}/approve", status_code=202)(_approve)
    app.post("/api/missions/{saga_id}/reject", status_code=202)(_reject)
    app.get("/api/missions/{saga_id}/events", response_class=EventSourceResponse)(_events)
    app.get("/api/missions/{saga_id}/frames")(_frames)
    app.get("/api/missions/{saga_id}/entries/{kind}/{entry_id}")(_entry)
    app.get("/api/fleet")(_fleet)
    app.post("/api/fleet/{robot}/release")(_release)
    app.get("/api/areas")(_areas)
    app.post("/api/session", status_code=200)(_session)
    app.include_router(pages.router)
    operator = make_mounted_page(
        get_bus(), group=_GROUP, secret=settings.web_token, home=("Mission control", "/../")
    )
    app.mount(pages.OPERATOR_PATH, operator)
    app.mount("/static", StaticFiles(directory=pages.WEB_FOLDER / "static"))
    return app


def _rules(settings: Settings) -> AccessRules:
    """Who may send what: names are those of WEB_HOSTS, or of loopback without a token."""
    hosts = tuple(filter(None, (name.strip() for name in settings.web_hosts.split(","))))
    if not hosts and not settings.web_token:
        hosts = (*LOOPBACK_NAMES, settings.web_host)
    static = (f"{pages.OPERATOR_PATH}{path}" for path in STATIC_PATHS)
    return AccessRules(
        token=settings.web_token,
        hosts=hosts,
        hosts_setting="WEB_HOSTS",
        cookie=_COOKIE,
        public=frozenset({"/healthz", "/login", "/api/session", "/static/", *static}),
        forms=f"{pages.OPERATOR_PATH}/",
        policy=_POLICY,
        changes_per_s=settings.web_requests_per_s,
    )


async def _alive() -> dict[str, str]:
    """Report that this process responds."""
    return {"status": "ok"}


async def _time(request: Request) -> ServerTime:
    """Return this machine's time, if the Redis or Valkey server answers within a second."""
    try:
        async with asyncio.timeout(_CONTACT_S):
            await get_bus().ping()
    except TimeoutError:
        detail = f"{get_bus().address} does not answer within {_CONTACT_S:g} s"
        raise HTTPException(503, detail) from None
    pages_here = request.app.state.stream_limits.open_here(request.scope)
    return ServerTime(now=time.time(), pages_here=max(1, pages_here))


async def _list(given: Annotated[MissionFilter, Query()]) -> list[MissionRow]:
    """List the missions that are kept and fit, in the order that `sort` names; `page` is ignored."""
    found = await find_missions(given, per_page=None)
    return [MissionRow(**row) for row in found.rows]


async def _start(
    mission: StartMission,
    request: Request,
    response: Response,
    idempotency_key: Annotated[
        Key | None,
        Header(
            description="Becomes the mission's id. The same key again returns the same mission."
        ),
    ] = None,
) -> StartedMission:
    """Start a mission. It runs to its end even if this process dies."""
    limit = get_settings().web_open_missions
    if (await mission_runner().counts())["open"] >= limit and not await _is_known(idempotency_key):
        raise TooManyMissions(503, f"{limit} missions are open; wait until one has ended")
    handle = await run_saga(
        mission.robots,
        mission.area,
        seed=mission.seed,
        saga_id=idempotency_key,
        known_poses=mission.known_poses,
        approve=mission.approve,
        until=mission.until,
        radio=mission.radio,
    )
    response.headers["location"] = f"{request.scope['root_path']}/api/missions/{handle.saga_id}"
    return StartedMission(saga_id=handle.saga_id)


async def _is_known(saga_id: str | None) -> bool:
    """Return whether a mission with this id exists."""
    with contextlib.suppress(NoSuchSaga):
        return bool(saga_id and await mission_runner().journal(saga_id))
    return False


async def _show(saga_id: SagaId) -> MissionDetail:
    """Return one mission with each of its requests, forward and undo."""
    return _detail(await mission_runner().journal(saga_id))


async def _cancel(saga_id: SagaId, body: Annotated[CancelMission, Body()]) -> MissionDetail:
    """Undo a running mission's steps in reverse order; do nothing if it has ended."""
    return _detail(await mission_runner().compensate(saga_id, body.reason))


async def _approve(saga_id: SagaId) -> MissionDetail:
    """Approve the exploration of a mission that waits for it; the first decision counts."""
    return _detail(await decide(saga_id, approved=True))


async def _reject(saga_id: SagaId, body: Annotated[RejectMission, Body()]) -> MissionDetail:
    """Reject the exploration of a mission that waits for approval: it is undone in reverse."""
    return _detail(await decide(saga_id, approved=False, reason=body.reason))


async def _resume(saga_id: SagaId) -> MissionDetail:
    """Resume a mission now; retry the compensations of a stuck one."""
    return _detail(await mission_runner().resume(saga_id))


async def _compensate(saga_id: SagaId) -> MissionDetail:
    """Undo a mission in any state; retry compensations that keep failing."""
    journal = await mission_runner().compensate(saga_id, "compensated by hand")
    if journal.status not in {"completed", "compensated"}:
        journal = await mission_runner().resume(saga_id)
    return _detail(journal)


async def _counted(request: Request, saga_id: SagaId) -> AsyncIterator[None]:
    """Count an event stream while it is open."""
    with request.app.state.stream_limits.take(client_of(request.scope), saga_id):
        yield


async def _events(
    request: Request,
    saga_id: SagaId,
    _counted: Annotated[None, Depends(_counted)],
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
    after: Annotated[
        str | None,
        Query(max_length=200, description="The same, for clients that cannot send the header."),
    ] = None,
) -> EventSourceResponse:
    """Stream a mission's events (server-sent events): `stage`, `move`, `frame`, finally `end`."""
    await mission_runner().journal(saga_id)
    return EventSourceResponse(
        request.app.state.events.of(saga_id, position_of(last_event_id or after))
    )


async def _frames(
    saga_id: SagaId,
    after: Annotated[EntryIdText, Query(description="The id of an entry of the recording.")],
    until: Annotated[EntryIdText, Query(description="The last one to return.")],
) -> list[dict[str, Any]]:
    """Return the entries of a recording after one, up to another; fewer if they are large.

    The last one of an answer is where the next one begins, until it is `until` or nothing comes.
    """
    await mission_runner().journal(saga_id)
    return await read_frames_between(saga_id, after, until)


async def _entry(
    saga_id: SagaId,
    kind: Annotated[Literal["stage", "move", "frame"], Path(description="Its stream.")],
    entry_id: Annotated[EntryIdText, Path(description="Its id there.")],
) -> dict[str, Any]:
    """Return one entry of a mission's streams, as its event has it."""
    await mission_runner().journal(saga_id)
    found = await read_one(saga_id, kind, entry_id)
    if found is None:
        raise HTTPException(404, f"mission {saga_id} has no entry {entry_id} of the kind {kind}")
    return found


async def _fleet() -> list[fleet.Robot]:
    """Return the robots, their batteries, and the missions that hold them."""
    return await fleet.robots()


async def _release(robot: Annotated[Key, Path()], body: ReleaseRobot) -> ReleasedRobots:
    """Release a robot from the mission that holds it; it is available at once."""
    reply = await request_and_reply(
        get_settings().resources_stream,
        RESOURCES_RELEASE,
        {"mission": body.mission, "robot": robot, "reason": body.reason},
        timeout=get_settings().reply_timeout_s,
    )
    return ReleasedRobots(released=reply["payload"]["released"])


async def _session(login: Login, request: Request, response: Response) -> dict[str, str]:
    """Log a browser in: exchange the token for a session cookie."""
    token = get_settings().web_token
    if token and not equal_secrets(login.token, token):
        raise HTTPException(401, "wrong token")
    response.set_cookie(
        _COOKIE,
        session_cookie_of(token),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return {"status": "ok"}


async def _areas() -> list[str]:
    """List the maps that missions may name."""
    return await asyncio.to_thread(known_maps, get_settings().map_dir)


def _detail(journal: Journal) -> MissionDetail:
    started = {e.step for e in journal.entries if e.direction == "forward"}
    steps = [step.name for step in declaration_of(journal).steps]
    return MissionDetail(
        **summary_of(journal),
        error=journal.error,
        entries=[StepRequest(**request) for request in requests_of(journal)],
        remaining=[] if journal.is_over else [name for name in steps if name not in started],
    )
