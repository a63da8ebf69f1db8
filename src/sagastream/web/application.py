"""The page as a Starlette application: its addresses, its login, its errors."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sagastream.bus import Bus
from sagastream.errors import SagastreamError
from sagastream.web.access import AccessMiddleware, AccessRules
from sagastream.web.actions import Actions
from sagastream.web.error_pages import explain, title_of
from sagastream.web.forms import FormTokens, read_form
from sagastream.web.rate_limits import RateLimiter, client_of
from sagastream.web.rendering import STATIC_PATHS, Renderer, static_files
from sagastream.web.tokens import equal_secrets, session_cookie_of
from sagastream.web.views import Views

SESSION_COOKIE = "sagastream-session"
_LOGINS_PER_S = 5.0
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
# A section of the page: its path, its name in templates, and its label.
Section = tuple[str, str, str]
_SECTIONS: tuple[Section, ...] = (
    ("/", "overview", "Overview"),
    ("/requests", "requests", "Requests"),
    ("/sagas", "sagas", "Sagas"),
    ("/schedules", "schedules", "Schedules"),
    ("/dead", "dead", "Dead letters"),
    ("/listeners", "listeners", "Listeners"),
)


def make_page(
    bus: Bus, *, group: str = "sagastream", token: str = "", hosts: Collection[str] = ()
) -> ASGIApp:
    """The application of the page.

    Args:
        bus: The server.
        group: The consumer group of the listeners.
        token: The token that opens the page; '' if it is open.
        hosts: The names by which clients may address it; empty for any.
    """
    render = _renderer(bus, group, has_token=bool(token))

    def refuse(request: Request, status: int, _kind: str, why: str) -> Response:
        # Without a token, it says nothing of the server.
        return render.error(request, status, title=title_of(status), text=why, here="login")

    rules = AccessRules(
        token=token,
        hosts=hosts,
        hosts_setting="--allow-host",
        cookie=SESSION_COOKIE,
        public=frozenset({"/healthz", "/login", *STATIC_PATHS}),
        forms="/",
        policy=_POLICY,
    )
    page = _application(bus, group, render, FormTokens(token), _login_routes(render, token))
    # Around all of it, so that the page of an unexpected error has its headers, too.
    return AccessMiddleware(page, rules=rules, refuse=refuse)


def make_mounted_page(bus: Bus, *, group: str, secret: str, home: tuple[str, str]) -> ASGIApp:
    """The page as a part of a web application, which checks access itself.

    Args:
        bus: The server.
        group: The consumer group of the listeners.
        secret: What forms are protected with; '' for a new one.
        home: The name of the application's first page, and its path from there.
    """
    name, path = home
    render = _renderer(bus, group, has_token=False, sections=((path, "home", name), *_SECTIONS))
    return _application(bus, group, render, FormTokens(secret), [])


def _renderer(
    bus: Bus, group: str, *, has_token: bool, sections: Sequence[Section] = _SECTIONS
) -> Renderer:
    return Renderer(
        server=bus.address,
        namespace=bus.namespace,
        group=group,
        has_token=has_token,
        product="sagastream",
        start="Overview" if sections is _SECTIONS else sections[0][2],
        assets="",
        sections=sections,
    )


def _application(
    bus: Bus, group: str, render: Renderer, tokens: FormTokens, login: list[Route]
) -> Starlette:
    views = Views(bus, group, render)
    routes = [
        Route("/", views.overview),
        Route("/stream", views.stream),
        Route("/requests", views.requests),
        Route("/request", views.request),
        Route("/sagas", views.sagas),
        Route("/saga", views.saga),
        Route("/schedules", views.schedules),
        Route("/dead", views.dead),
        Route("/dead/letter", views.letter),
        Route("/listeners", views.listeners),
        Route("/healthz", _healthz),
        *_action_routes(Actions(bus, render, tokens)),
        *login,
    ]
    routes += [Route(path, partial(_static, answer)) for path, answer in static_files().items()]

    async def handle(request: Request, error: Exception) -> Response:
        status, text, hint = explain(error)
        return render.error(request, status, title=title_of(status), text=text, hint=hint)

    return Starlette(
        routes=routes,
        exception_handlers={HTTPException: handle, SagastreamError: handle, Exception: handle},
    )


async def _healthz(_request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _static(answer: Response, _request: Request) -> Response:
    return answer


def _action_routes(actions: Actions) -> list[Route]:
    routes = []
    for path, (confirm, do) in actions.by_path().items():
        routes.append(Route(path, partial(_ask, actions, confirm)))
        routes.append(Route(path, partial(_do, actions, do), methods=["POST"]))
    return routes


async def _ask(actions: Actions, confirm: Any, request: Request) -> Response:
    return await actions.ask(request, confirm)


async def _do(actions: Actions, do: Any, request: Request) -> Response:
    return await actions.do(request, do)


def _login_routes(render: Renderer, token: str) -> list[Route]:
    if not token:
        return []
    guesses = RateLimiter(_LOGINS_PER_S)

    async def show(request: Request) -> Response:
        return render.page(request, "login", here="login", problem="")

    async def log_in(request: Request) -> Response:
        form = await read_form(request)
        if not guesses.take(client_of(request.scope)):
            raise HTTPException(429, "too many tokens; wait a moment, then try again")
        if not equal_secrets(form.get("token", "").strip(), token):
            problem = "That is not the token of this page."
            return render.page(request, "login", code=401, here="login", problem=problem)
        answer = RedirectResponse(f"{request.scope.get('root_path', '')}/", 303)
        answer.set_cookie(
            SESSION_COOKIE,
            session_cookie_of(token),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def log_out(request: Request) -> Response:
        answer = RedirectResponse(f"{request.scope.get('root_path', '')}/login", 303)
        answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return answer

    return [
        Route("/login", show),
        Route("/login", log_in, methods=["POST"]),
        Route("/logout", log_out, methods=["POST"]),
    ]
