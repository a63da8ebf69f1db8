"""Errors as pages: what happened, and what to do next."""

from starlette.exceptions import HTTPException

from sagastream.errors import (
    DataLost,
    InvalidMessage,
    NoSuchSaga,
    Overloaded,
    ReplyTimeout,
    RequestCancelled,
    RequestConflict,
    RequestFailed,
    ResultExpired,
    SagaError,
    SagastreamError,
    ServerError,
    ServerRefused,
    ServerUnavailable,
    ServerUnsuitable,
    UnknownLayout,
)
from sagastream.inspection import AmbiguousId, NoSuchId
from sagastream.redelivery import CannotRetry, NoSuchLetter

_TITLES = {
    400: "Malformed request",
    401: "No token",
    403: "Refused",
    404: "Not found",
    405: "Not allowed",
    409: "Cannot be done",
    413: "Too large",
    414: "Address too long",
    415: "Not a form",
    421: "Unknown host",
    422: "Invalid value",
    429: "Too many requests",
    431: "Headers too large",
    500: "Unexpected error",
    502: "Malformed data",
    503: "The server is away",
    504: "No answer in time",
}
_HEADERS = {
    401: {"www-authenticate": "Bearer"},
    429: {"retry-after": "5"},
    503: {"retry-after": "5"},
}
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NoSuchId, 404),
    (NoSuchLetter, 404),
    (NoSuchSaga, 404),
    (InvalidMessage, 422),
    (AmbiguousId, 409),
    (CannotRetry, 409),
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
_AWAY = (
    "Nothing is lost by this: records and streams are on the server. Start the server, or check the "
    "network to it, then reload this page. To see more: sagastream doctor"
)
_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (ServerUnavailable, _AWAY),
    (
        ServerUnsuitable,
        "Give the user of this page the rights of the role administrator; see: sagastream doctor",
    ),
    (ServerRefused, "See what holds the memory: sagastream memory, sagastream purge"),
    (NoSuchId, "It may have expired. Search for the beginning of its id."),
    (NoSuchSaga, "It may have expired. Search for it in the list of sagas."),
    (NoSuchLetter, "See the list of dead letters."),
    (AmbiguousId, "Give more of the id."),
    (ServerError, "A key on the server has other content than this release expects."),
    (UnknownLayout, "A newer release wrote it: use the page of that release."),
)


def title_of(status: int) -> str:
    """The heading of the page of a status."""
    return _TITLES.get(status, "Error")


def headers_of(status: int) -> dict[str, str]:
    """The headers that belong to a status."""
    return _HEADERS.get(status, {})


def status_of(error: Exception) -> int:
    """The status of an error; 500 for one that is not expected."""
    return next((code for kind, code in _STATUS if isinstance(error, kind)), 500)


def hint_of(error: Exception) -> str:
    """What an operator does next; '' if the error says it itself."""
    return next((hint for kind, hint in _HINTS if isinstance(error, kind)), "")


def explain(error: Exception) -> tuple[int, str, str]:
    """The status of an error, its text, and what to do next."""
    if isinstance(error, HTTPException):
        detail = "there is no such page" if error.status_code == 404 else error.detail  # noqa: PLR2004
        return error.status_code, detail, ""
    if not isinstance(error, SagastreamError):
        return 500, type(error).__name__, "The log of sagastream serve has the traceback."
    return status_of(error), str(error), hint_of(error)
