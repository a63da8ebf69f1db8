"""The page as a Starlette application: its addresses, its login, its errors."""

from collections.abc import Collection
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
from sagastream.web.access import SESSION_COOKIE, AccessMiddleware, FormTokens, read_form
from sagastream.web.actions import Actions
from sagastream.web.error_pages import explain, title_of
from sagastream.web.rate_limits import RateLimiter, client_of
from sagastream.web.rendering import Renderer, static_files
from sagastream.web.tokens import equal_secrets, session_cookie_of
from sagastream.web.views import Views

_LOGINS_PER_S = 5.0


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
    render = Renderer(
        server=bus.address, namespace=bus.namespace, group=group, has_token=bool(token)
    )
    views = Views(bus, group, render)
    routes = [
        Route("/", views.overview),
        Route("/requests", views.requests),
        Route("/request", views.request),
        Route("/sagas", views.sagas),
        Route("/saga", views.saga),
        Route("/dead", views.dead),
        Route("/dead/letter", views.letter),
        Route("/listeners", views.listeners),
        Route("/healthz", _healthz),
        *_action_routes(Actions(bus, render, FormTokens(token))),
        *_login_routes(render, token),
    ]
    routes += [Route(path, partial(_static, answer)) for path, answer in static_files().items()]

    def refuse(status: int, why: str) -> Response:
        # Without a token, it says nothing of the server.
        return _error_page(render, status, why, "", here="login")

    async def handle(_request: Request, error: Exception) -> Response:
        return _error_page(render, *explain(error))

    page = Starlette(
        routes=routes,
        exception_handlers={HTTPException: handle, SagastreamError: handle, Exception: handle},
    )
    # Around all of it, so that the page of an unexpected error has its headers, too.
    return AccessMiddleware(page, token=token, hosts=hosts, refuse=refuse)


def _error_page(render: Renderer, status: int, text: str, hint: str, *, here: str = "") -> Response:
    title = title_of(status)
    page = render.page("error", code=status, here=here, title=title, text=text, hint=hint)
    if status == 401:  # noqa: PLR2004
        page.headers["www-authenticate"] = "Bearer"
    if status in {429, 503}:
        page.headers["retry-after"] = "5"
    return page


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

    async def show(_request: Request) -> Response:
        return render.page("login", here="login", problem="")

    async def log_in(request: Request) -> Response:
        form = await read_form(request)
        if not guesses.take(client_of(request.scope)):
            raise HTTPException(429, "too many tokens; wait a moment, then try again")
        if not equal_secrets(form.get("token", "").strip(), token):
            return render.page(
                "login", code=401, here="login", problem="That is not the token of this page."
            )
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            SESSION_COOKIE,
            session_cookie_of(token),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def log_out(_request: Request) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return answer

    return [
        Route("/login", show),
        Route("/login", log_in, methods=["POST"]),
        Route("/logout", log_out, methods=["POST"]),
    ]
