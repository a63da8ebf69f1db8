"""Errors as RFC 9457 has them: `application/problem+json` with type, title, status and detail."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.exploration.map_files import MapError
from app.orchestrator import BadMission
from app.web.pages import templates
from sagastream import InvalidMessage, SagastreamError, ServerRefused, ServerUnavailable
from sagastream.errors import NoSuchSaga, SagaError

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NoSuchSaga, 404),
    (BadMission, 422),
    (MapError, 422),
    (InvalidMessage, 422),
    (SagaError, 409),
    (ServerUnavailable, 503),
    (ServerRefused, 503),
)


def problem(status: int, kind: str, detail: str) -> Response:
    """An error as a response.

    Args:
        status: The HTTP status.
        kind: The error's type, such as `NoSuchSaga`.
        detail: What happened, and what to do.
    """
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    body = _body(status, kind, detail)
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _body(status: int, kind: str, detail: str) -> dict[str, Any]:
    trace_id = trace.get_current_span().get_span_context().trace_id
    return {
        "type": f"urn:mission:{kind}",
        "title": kind,
        "status": status,
        "detail": detail,
        "trace_id": f"{trace_id:032x}" if trace_id else "",
    }


def _answer(request: Request, status: int, kind: str, detail: str) -> Response:
    """The same, and as a page for whoever looks at pages."""
    is_page = not request.url.path.startswith("/api/")
    if is_page and "text/html" in request.headers.get("accept", ""):
        body = _body(status, kind, detail)
        return templates.TemplateResponse(request, "error.html", body, status_code=status)
    return problem(status, kind, detail)


async def of_library(request: Request, error: Exception) -> Response:
    """A `SagastreamError`, by what it says of the request or of the server."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    return _answer(request, status, type(error).__name__, str(error))


async def of_overload(request: Request, error: Exception) -> Response:
    """More than this server is to take on."""
    return _answer(request, 503, type(error).__name__, str(error))


async def of_validation(request: Request, error: Exception) -> Response:
    """A request that is not what the description says; names the field."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return _answer(request, 422, "InvalidRequest", f"{where}: {first['msg']}")


async def of_http(request: Request, error: Exception) -> Response:
    """What the framework itself refuses, such as an unknown path."""
    assert isinstance(error, HTTPException)
    kind = type(error).__name__
    if type(error) is HTTPException:
        kind = "".join(HTTPStatus(error.status_code).phrase.title().split())
    return _answer(request, error.status_code, kind, str(error.detail))


HANDLERS: dict[int | type[Exception], Callable[..., Coroutine[Any, Any, Response]]] = {
    SagastreamError: of_library,
    MapError: of_library,
    RequestValidationError: of_validation,
    HTTPException: of_http,
}
