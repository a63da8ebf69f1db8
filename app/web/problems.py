"""Errors as RFC 9457 has them: `application/problem+json` with type, title, status and detail."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.exploration.map_files import MapError
from app.orchestrator import BadMission
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


def problem(status: int, kind: str, detail: str) -> JSONResponse:
    """An error as a response.

    Args:
        status: The HTTP status.
        kind: The error's type, such as `NoSuchSaga`.
        detail: What happened, and what to do.
    """
    trace_id = trace.get_current_span().get_span_context().trace_id
    body = {
        "type": f"urn:mission:{kind}",
        "title": kind,
        "status": status,
        "detail": detail,
        "trace_id": f"{trace_id:032x}" if trace_id else "",
    }
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def of_library(_request: Request, error: Exception) -> JSONResponse:
    """A `SagastreamError`, by what it says of the request or of the server."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    return problem(status, type(error).__name__, str(error))


async def of_overload(_request: Request, error: Exception) -> JSONResponse:
    """More than this server is to take on."""
    return problem(503, type(error).__name__, str(error))


async def of_validation(_request: Request, error: Exception) -> JSONResponse:
    """A request that is not what the description says; names the field."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return problem(422, "InvalidRequest", f"{where}: {first['msg']}")


async def of_http(_request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses, such as an unknown path."""
    assert isinstance(error, HTTPException)
    kind = type(error).__name__
    if type(error) is HTTPException:
        kind = "".join(HTTPStatus(error.status_code).phrase.title().split())
    return problem(error.status_code, kind, str(error.detail))


HANDLERS: dict[int | type[Exception], Callable[..., Coroutine[Any, Any, JSONResponse]]] = {
    SagastreamError: of_library,
    MapError: of_library,
    RequestValidationError: of_validation,
    HTTPException: of_http,
}
