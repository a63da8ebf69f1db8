"""Describe what a handler raised: for the failed reply, and for the log."""

import logging
import traceback
from collections.abc import Mapping
from pathlib import Path

from sagastream.errors import InvalidMessage, SagastreamError

logger = logging.getLogger(__name__)

_LIBRARY = str(Path(__file__).parent.parent)
# The traceback of a failed reply: its frames, and its length in characters.
_FRAMES = 5
_TRACEBACK_LIMIT = 1500


def describe(error: BaseException) -> str:
    """The message of an error, with the members of a group and the cause.

    A message that says nothing alone, as `'sku'` of `KeyError('sku')` or the empty one of
    `AssertionError()`, is the error as it was made.
    """
    text = _text(error)
    if type(error).__str__ is KeyError.__str__:
        text = repr(error)
    return text + _more(error)


def _with_type(error: BaseException) -> str:
    """The type and the message of an error; the type alone is followed by `()`."""
    text, kind = _text(error), type(error).__name__
    return (text if text.startswith(f"{kind}(") else f"{kind}: {text}") + _more(error)


def _text(error: BaseException) -> str:
    try:
        return (str(error) or repr(error)).encode(errors="backslashreplace").decode()
    except Exception:  # noqa: BLE001 - `__str__` is the handler's code
        return "its message cannot be read"


def _more(error: BaseException) -> str:
    text = ""
    if isinstance(error, BaseExceptionGroup):
        text = ": " + "; ".join(_with_type(each) for each in error.exceptions)
    if error.__cause__ is not None:
        text += f" (caused by {_with_type(error.__cause__)})"
    return text


def is_expected(error: BaseException) -> bool:
    """Whether an error is the requester's fault, so that no traceback explains it."""
    return isinstance(error, InvalidMessage)


def short_traceback(error: BaseException) -> str:
    """The last frames of a traceback, without those of this library, and the error."""
    try:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(_LIBRARY)]
        lines = traceback.format_list((own or list(frames))[-_FRAMES:])
        lines += traceback.format_exception_only(error)
    except Exception:  # noqa: BLE001 - `__str__` is the handler's code
        return ""
    return "".join(lines)[-_TRACEBACK_LIMIT:]


def log_failure(error: BaseException, ids: Mapping[str, str], attempt: int, *, level: int) -> None:
    """Log why a handler failed, with the ids in the text: plain `logging` shows no others.

    From ERROR on it has the traceback.
    """
    known = ", ".join(
        f"{name.removesuffix('_id')} {ids[name]}"
        for name in ("request_id", "correlation_id", "saga_id")
        if ids[name]
    )
    logger.log(
        level,
        "handler of %s failed: %s (%s, attempt %s)",
        *(ids["event_type"], _with_type(error), known, attempt),
        exc_info=_writable(error) if level >= logging.ERROR else None,
        extra=ids,
    )


def _writable(error: BaseException) -> BaseException:
    """The error, or one with its text and traceback if a log file could not encode its own text."""
    try:
        "".join(traceback.format_exception(error)).encode()
    except Exception:  # noqa: BLE001 - a lone surrogate, or the handler's `__str__`
        return SagastreamError(_with_type(error)).with_traceback(error.__traceback__)
    return error
