"""The HTTP API: missions and the fleet as JSON, what happens to a mission as events; and the pages."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Header, Path, Query, Request, Response
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
from app.exploration.map_files import known_maps
from app.missions.mission_saga import mission_runner, mission_saga
from app.missions.summaries import entries_of, row_of
from app.orchestrator import run_saga
from app.redis_utils import get_bus, request_and_reply
from app.robots import fleet
from app.web import pages, problems
from app.web.event_stream import Events, cursor_of
from app.web.guard import COOKIE, Guard, same, session_of
from app.web.mission_progress import missions_in
from app.web.models import (
    Entry,
    Key,
    Mission,
    MissionAsked,
    MissionDetail,
    Problem,
    Reason,
    Release,
    Released,
    Started,
    Token,
)
from sagastream import SagastreamError
from sagastream.errors import NoSuchSaga
from sagastream.saga.journal import Journal

_TRACER = trace.get_tracer("mission")
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": why}
    for status, why in {
        401: "no token, or a wrong one",
        403: "from another origin",
        404: "no such mission",
        409: "the id belongs to another mission, or it has ended",
        413: "too large",
        415: "not JSON",
        422: "not what this description says",
        429: "too many requests",
        503: "the server behind this one does not answer, or too many missions are open",
    }.items()
}
SagaId = Annotated[Key, Path(description="The mission's id.")]


class TooManyMissions(SagastreamError):
    """As many missions as allowed are open."""


class Traced:
    """A new trace for each request, linked to its caller's: callers do not decide what we record."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, within a span of its own."""
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
    """The application.

    Args:
        settings: The token, and the limits.
    """

    @asynccontextmanager
    async def connected(_app: FastAPI) -> AsyncIterator[None]:
        async with get_bus():
            yield

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
            Middleware(Traced),
            Middleware(Guard, token=settings.web_token, per_s=settings.web_requests_per_s),
        ],
    )
    app.state.events = Events()
    for kind, handler in {**problems.HANDLERS, TooManyMissions: problems.of_overload}.items():
        app.add_exception_handler(kind, handler)
    app.get("/healthz")(_alive)
    app.get("/api/missions")(_list)
    app.post("/api/missions", status_code=202)(_start)
    app.get("/api/missions/{saga_id}")(_show)
    app.post("/api/missions/{saga_id}/cancel", status_code=202)(_cancel)
    app.post("/api/missions/{saga_id}/resume", status_code=202)(_resume)
    app.post("/api/missions/{saga_id}/compensate", status_code=202)(_compensate)
    app.get("/api/missions/{saga_id}/events", response_class=EventSourceResponse)(_events)
    app.get("/api/fleet")(_fleet)
    app.post("/api/fleet/{robot}/release")(_release)
    app.get("/api/areas")(_areas)
    app.post("/api/session", status_code=200)(_session)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=pages.HERE / "static"))
    return app


async def _alive() -> dict[str, str]:
    """Whether this process answers."""
    return {"status": "ok"}


async def _list(
    status: Annotated[
        Literal["running", "compensating", "completed", "compensated", "stuck"] | None, Query()
    ] = None,
) -> list[Mission]:
    """The missions that are kept, the newest first."""
    return [Mission(**row) for row in await missions_in(status or "")]


async def _start(
    asked: MissionAsked,
    response: Response,
    idempotency_key: Annotated[
        Key | None, Header(description="Becomes the mission's id; again, it is the same mission.")
    ] = None,
) -> Started:
    """Start a mission; it ends whatever happens to this server."""
    most = get_settings().web_open_missions
    if (await mission_runner().counts())["open"] >= most and not await _is_known(idempotency_key):
        raise TooManyMissions(f"{most} missions are open; wait until one has ended")
    handle = await run_saga(
        asked.robots,
        asked.area,
        seed=asked.seed,
        saga_id=idempotency_key,
        known_poses=asked.known_poses,
    )
    response.headers["location"] = f"/api/missions/{handle.saga_id}"
    return Started(saga_id=handle.saga_id)


async def _is_known(saga_id: str | None) -> bool:
    """Whether there is such a mission already."""
    with contextlib.suppress(NoSuchSaga):
        return bool(saga_id and await mission_runner().journal(saga_id))
    return False


async def _show(saga_id: SagaId) -> MissionDetail:
    """One mission, with each of its requests, forward and back."""
    return _detail(await mission_runner().journal(saga_id))


async def _cancel(saga_id: SagaId, asked: Annotated[Reason, Body()]) -> MissionDetail:
    """Have what a mission did undone in reverse; one that has ended is left alone."""
    return _detail(await mission_runner().compensate(saga_id, asked.reason))


async def _resume(saga_id: SagaId) -> MissionDetail:
    """Have a mission gone on with; a stuck one tries its compensations anew."""
    return _detail(await mission_runner().resume(saga_id))


async def _compensate(saga_id: SagaId) -> MissionDetail:
    """Have a mission undone whatever it is at; what keeps failing is tried anew."""
    journal = await mission_runner().compensate(saga_id, "compensated by hand")
    if journal.status not in {"completed", "compensated"}:
        journal = await mission_runner().resume(saga_id)
    return _detail(journal)


async def _events(
    request: Request,
    saga_id: SagaId,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
    after: Annotated[
        str | None, Query(max_length=200, description="The same, for those who cannot send it.")
    ] = None,
) -> EventSourceResponse:
    """All that happens to a mission as server-sent events: `stage`, `move`, `frame`, then `end`."""
    await mission_runner().journal(saga_id)
    return EventSourceResponse(
        request.app.state.events.of(saga_id, cursor_of(last_event_id or after))
    )


async def _fleet() -> list[fleet.Robot]:
    """The robots, their batteries, and who holds them."""
    return await fleet.robots()


async def _release(robot: Annotated[Key, Path()], asked: Release) -> Released:
    """Take a robot from the mission that holds it; it is free for others at once."""
    reply = await request_and_reply(
        get_settings().resources_stream,
        "resources:release",
        {"mission": asked.mission, "robot": robot, "reason": asked.reason},
        timeout=get_settings().reply_timeout_s,
    )
    return Released(released=reply["payload"]["released"])


async def _session(asked: Token, request: Request, response: Response) -> dict[str, str]:
    """Let a browser in that says the token once."""
    token = get_settings().web_token
    if token and not same(asked.token, token):
        raise HTTPException(401, "that is not the token")
    response.set_cookie(
        COOKIE,
        session_of(token),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return {"status": "ok"}


async def _areas() -> list[str]:
    """The maps that missions may name."""
    return await asyncio.to_thread(known_maps, get_settings().map_dir)


def _detail(journal: Journal) -> MissionDetail:
    done = {e.step for e in journal.entries if e.direction == "forward"}
    steps = [step.name for step in mission_saga(get_settings()).steps]
    return MissionDetail(
        **row_of(journal),
        error=journal.error,
        entries=[Entry(**entry) for entry in entries_of(journal)],
        remaining=[] if journal.is_over else [name for name in steps if name not in done],
    )
