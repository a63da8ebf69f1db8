"""What a failed handler leaves: a log line with ids and traceback, and a reply that says why."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from sagastream import Bus, Handler, InvalidMessage, RequestFailed
from tests.listeners import listening

STREAM = "work:commands"


class Odd(Exception):
    """An error whose message cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def _raise(error: BaseException) -> Callable[[], None]:
    def broken() -> None:
        raise error

    return broken


def _missing() -> None:
    _sku({})


def _sku(order: dict[str, str]) -> str:
    return order["sku"]


async def _failure(bus: Bus, function: Callable[..., Any], **options: Any) -> RequestFailed:
    async with listening(bus, [Handler(STREAM, "work:do", function)], **options):
        with pytest.raises(RequestFailed) as failed:
            await bus.request_and_reply(
                *(STREAM, "work:do", {}, 5), request_id="r1", correlation_id="c1", saga_id="s1"
            )
    await bus.command("DEL", *(await bus.command("KEYS", bus.key("request:*"))))
    return failed.value


MESSAGES: dict[str, tuple[BaseException, str]] = {
    "key": (KeyError("nope"), "KeyError('nope')"),
    "empty": (ValueError(), "ValueError()"),
    "assertion": (AssertionError(), "AssertionError()"),
    "timeout": (TimeoutError(), "TimeoutError()"),
    "plain": (ValueError("no stock"), "ValueError: no stock"),
    "odd": (Odd(), "Odd: its message cannot be read"),
    "group": (
        ExceptionGroup("two", [KeyError("a"), OSError()]),
        "two (2 sub-exceptions): KeyError: 'a'; OSError()",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_an_error_reads_as_such(bus: Bus, name: str) -> None:
    """A message that says nothing alone has its type."""
    error, text = MESSAGES[name]
    failed = await _failure(bus, _raise(error))
    assert text in str(failed)
    assert failed.error_type == type(error).__name__


async def test_a_reply_has_a_short_traceback(bus: Bus) -> None:
    """It has the handler's frames and no others."""
    failed = await _failure(bus, _missing)
    assert "in _missing" in failed.traceback
    assert 'return order["sku"]' in failed.traceback
    assert failed.traceback.endswith("KeyError: 'sku'\n")
    assert "execution.py" not in failed.traceback
    assert failed.reply["payload"]["traceback"] == failed.traceback


async def test_a_deep_traceback_is_cut(bus: Bus) -> None:
    """The innermost frames are kept."""

    def deep(left: int) -> None:
        if not left:
            raise ValueError("x" * 10_000)
        deep(left - 1)

    failed = await _failure(bus, lambda: deep(100))
    assert len(failed.traceback) <= 1500


async def test_tracebacks_can_be_switched_off(bus: Bus) -> None:
    """Requesters then see type and message only."""
    failed = await _failure(bus, _missing, tracebacks=False)
    assert failed.traceback == ""
    assert set(failed.reply["payload"]) == {"error_type", "message", "trace_id"}


async def test_an_unexpected_error_is_logged_with_ids_and_traceback(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """In plain logging, whose format shows the text only."""
    await _failure(bus, _missing)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.getMessage() == (
        "handler of work:do failed: KeyError: 'sku' "
        "(request r1, correlation c1, saga s1, attempt 1)"
    )
    assert 'return order["sku"]' in logging.Formatter().format(record)


async def test_a_result_that_is_refused_is_logged_as_an_error(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the handler's fault."""

    def number() -> Any:
        return 7

    await _failure(bus, number)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "result: must be a mapping or None, not int (request r1" in record.getMessage()


@pytest.mark.parametrize("is_typed", [False, True])
async def test_a_refused_request_is_a_warning_without_a_traceback(
    bus: Bus, caplog: pytest.LogCaptureFixture, *, is_typed: bool
) -> None:
    """The requester has to change something, not the operator."""

    def typed(_payload: dict[str, int]) -> None: ...

    async with listening(
        bus,
        [
            Handler(STREAM, "work:typed", typed),
            Handler(STREAM, "work:do", _raise(InvalidMessage("count", "is too large"))),
        ],
    ):
        kind = "work:typed" if is_typed else "work:do"
        with pytest.raises(RequestFailed) as failed:
            await bus.request_and_reply(STREAM, kind, {"a": "x"}, 5)
    assert failed.value.traceback == ""
    (record,) = [each for each in caplog.records if "failed: " in each.getMessage()]
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
