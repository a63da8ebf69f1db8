"""Maps errors to responses in the format of RFC 9457, `application/problem+json`, or to pages."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.exploration.map_files import MapError
from app.missions.mission import BadMission
from app.web.limits import LimitReached
from app.web.pages import render
from sagastream import SagastreamError
from sagastream.errors import NoSuchSaga
from sagastream.web.error_pages import headers_of, hint_of, status_of

_NO_MISSION = "It may have expired (RETENTION_S). Search the list of missions for its id."
_INVALID = (BadMission, MapError)


def problem(status: int, kind: str, detail: str) -> Response:
    """Return an error as a response.

    Args:
        status: The HTTP status.
        kind: The error's type, such as `NoSuchSaga`.
        detail: What happened and what to do next.
    """
    body = _body(status, kind, detail)
    return JSONResponse(body, status, headers_of(status), media_type="application/problem+json")


def _body(status: int, kind: str, detail: str) -> dict[str, Any]:
    return {
        "type": f"urn:mission:{kind}",
        "title": kind,
        "status": status,
        "detail": detail,
        "trace_id": _trace_id(),
    }


def _trace_id() -> str:
    trace_id = trace.get_current_span().get_span_context().trace_id
    return f"{trace_id:032x}" if trace_id else ""


def respond(request: Request, status: int, kind: str, detail: str, hint: str = "") -> Response:
    """Return an error as a page to browsers, else as `application/problem+json`.

    Args:
        request: The request that it answers.
        status: The HTTP status.
        kind: The error's type, such as `NoSuchSaga`.
        detail: What happened and what to do next.
        hint: What to do next, on a page.
    """
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if not path.startswith("/api/") and "text/html" in request.headers.get("accept", ""):
        title = HTTPStatus(status).phrase
        hint = f"{hint} Trace: {_trace_id() or 'none'}".strip()
        return render.error(request, status, title=title, text=detail, hint=hint)
    return problem(status, kind, detail)


async def handle_sagastream_error(request: Request, error: Exception) -> Response:
    """Respond to a `SagastreamError` or `MapError` with the status that fits its class."""
    if isinstance(error, NoSuchSaga):
        detail = f"there is no mission {error.saga_id}"
        return respond(request, 404, type(error).__name__, detail, _NO_MISSION)
    status = 422 if isinstance(error, _INVALID) else status_of(error)
    return respond(request, status, type(error).__name__, str(error), hint_of(error))


async def handle_limit(request: Request, error: Exception) -> Response:
    """Respond with the error's own status: this server accepts no more for now."""
    assert isinstance(error, LimitReached)
    return respond(request, error.status, type(error).__name__, str(error))


async def handle_invalid_request(request: Request, error: Exception) -> Response:
    """Respond with 422 to a request that does not match the API description; name the field."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return respond(request, 422, "InvalidRequest", f"{field}: {first['msg']}")


async def handle_http_error(request: Request, error: Exception) -> Response:
    """Respond to an error of the framework itself, such as an unknown path."""
    assert isinstance(error, HTTPException)
    kind = type(error).__name__
    if type(error) is HTTPException:
        kind = "".join(HTTPStatus(error.status_code).phrase.title().split())
    return respond(request, error.status_code, kind, str(error.detail))


HANDLERS: dict[int | type[Exception], Callable[..., Coroutine[Any, Any, Response]]] = {
    LimitReached: handle_limit,
    SagastreamError: handle_sagastream_error,
    MapError: handle_sagastream_error,
    RequestValidationError: handle_invalid_request,
    HTTPException: handle_http_error,
}
