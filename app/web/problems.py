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
from app.web.pages import templates
from sagastream import (
    DataLost,
    InvalidMessage,
    Overloaded,
    ReplyTimeout,
    RequestCancelled,
    RequestConflict,
    RequestFailed,
    ResultExpired,
    SagastreamError,
    ServerError,
    ServerRefused,
    ServerUnavailable,
    ServerUnsuitable,
)
from sagastream.errors import NoSuchSaga, SagaError, UnknownLayout

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NoSuchSaga, 404),
    (BadMission, 422),
    (MapError, 422),
    (InvalidMessage, 422),
    (SagaError, 409),
    (UnknownLayout, 409),
    (RequestConflict, 409),
    (RequestCancelled, 409),
    (ResultExpired, 409),
    (ServerUnavailable, 503),
    (ServerRefused, 503),
    (ServerUnsuitable, 503),
    (DataLost, 503),
    (Overloaded, 503),
    (ReplyTimeout, 504),
    # A handler has failed, or what is stored is not what belongs there.
    (RequestFailed, 502),
    (ServerError, 502),
)
_HEADERS: dict[int, dict[str, str]] = {
    401: {"www-authenticate": "Bearer"},
    429: {"retry-after": "5"},
    503: {"retry-after": "5"},
}


def problem(status: int, kind: str, detail: str) -> Response:
    """Return an error as a response.

    Args:
        status: The HTTP status.
        kind: The error's type, such as `NoSuchSaga`.
        detail: What happened and what to do next.
    """
    body = _body(status, kind, detail)
    return JSONResponse(body, status, _HEADERS.get(status), media_type="application/problem+json")


def _body(status: int, kind: str, detail: str) -> dict[str, Any]:
    trace_id = trace.get_current_span().get_span_context().trace_id
    return {
        "type": f"urn:mission:{kind}",
        "title": kind,
        "status": status,
        "detail": detail,
        "trace_id": f"{trace_id:032x}" if trace_id else "",
    }


def _respond(request: Request, status: int, kind: str, detail: str) -> Response:
    """Return an error as a page to browsers, else as `application/problem+json`."""
    is_page = not request.url.path.startswith("/api/")
    if is_page and "text/html" in request.headers.get("accept", ""):
        body = _body(status, HTTPStatus(status).phrase, detail)
        return templates.TemplateResponse(
            request, "error.html", body, status_code=status, headers=_HEADERS.get(status)
        )
    return problem(status, kind, detail)


async def handle_sagastream_error(request: Request, error: Exception) -> Response:
    """Respond to a `SagastreamError` or `MapError` with the status that fits its class."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    return _respond(request, status, type(error).__name__, str(error))


async def handle_limit(request: Request, error: Exception) -> Response:
    """Respond with the error's own status: this server accepts no more for now."""
    assert isinstance(error, LimitReached)
    return _respond(request, error.status, type(error).__name__, str(error))


async def handle_invalid_request(request: Request, error: Exception) -> Response:
    """Respond with 422 to a request that does not match the API description; name the field."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return _respond(request, 422, "InvalidRequest", f"{field}: {first['msg']}")


async def handle_http_error(request: Request, error: Exception) -> Response:
    """Respond to an error of the framework itself, such as an unknown path."""
    assert isinstance(error, HTTPException)
    kind = type(error).__name__
    if type(error) is HTTPException:
        kind = "".join(HTTPStatus(error.status_code).phrase.title().split())
    return _respond(request, error.status_code, kind, str(error.detail))


HANDLERS: dict[int | type[Exception], Callable[..., Coroutine[Any, Any, Response]]] = {
    LimitReached: handle_limit,
    SagastreamError: handle_sagastream_error,
    MapError: handle_sagastream_error,
    RequestValidationError: handle_invalid_request,
    HTTPException: handle_http_error,
}
