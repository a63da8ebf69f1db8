"""Invariant 13: what a handler raises stays in its request."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sagastream import Bus, Command, PlainProgress, Progress, RequestFailed, multi_stage_reply
from tests.listeners import listening

STREAM = "work:commands"


class Silent(Exception):
    """Its text cannot be read."""

    def __str__(self) -> str:
        raise LookupError


class Fatal(BaseException):
    """Not an `Exception`."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "CancelledError": asyncio.CancelledError,
    "Fatal": lambda: Fatal("done for"),
    "Silent": Silent,
}
runs: list[str] = []


@multi_stage_reply(stream=STREAM, event_type="work:async")
async def in_loop(command: Command, _progress: Progress) -> dict[str, Any]:
    """Raise what was asked for, if anything was."""
    runs.append("async")
    if "raise" in command.payload:
        error = RAISED[command.payload["raise"]]()
        raise error
    return {"ok": True}


@multi_stage_reply(stream=STREAM, event_type="work:plain")
def in_thread(command: Command, _progress: PlainProgress) -> dict[str, Any]:
    """The same in a thread."""
    runs.append("plain")
    if "raise" in command.payload:
        error = RAISED[command.payload["raise"]]()
        raise error
    return {"ok": True}


@pytest.mark.invariant(13)
@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize("error_type", RAISED)
async def test_whatever_a_handler_raises_fails_its_request_alone(
    bus: Bus, error_type: str, kind: str
) -> None:
    """One run, `failed` with the type by name, and the listener handles the next request."""
    runs.clear()
    async with listening(bus, [in_loop, in_thread]):
        with pytest.raises(RequestFailed) as failed:
            await bus.request_and_reply(STREAM, f"work:{kind}", {"raise": error_type}, 10)
        assert failed.value.error_type == error_type
        assert runs == [kind]
        reply = await bus.request_and_reply(STREAM, f"work:{kind}", {}, 10)
    assert reply["payload"] == {"ok": True}


@multi_stage_reply(stream=STREAM, event_type="work:group")
async def in_group(_command: Command, _progress: Progress) -> None:
    """Fail twice at once."""
    raise ExceptionGroup("two things", [ValueError("no such order"), KeyError("x")])


@multi_stage_reply(stream=STREAM, event_type="work:cause")
async def with_cause(_command: Command, _progress: Progress) -> None:
    """Fail because of another failure."""
    raise RuntimeError("card not charged") from ConnectionResetError("bank hung up")


@pytest.mark.invariant(13)
async def test_a_group_is_reported_with_what_is_in_it(bus: Bus) -> None:
    """The types and messages of its members are in the message."""
    async with listening(bus, [in_group]):
        with pytest.raises(RequestFailed) as failed:
            await bus.request_and_reply(STREAM, "work:group", {}, 10)
    assert failed.value.error_type == "ExceptionGroup"
    assert "ValueError: no such order" in failed.value.message
    assert "KeyError: 'x'" in failed.value.message


@pytest.mark.invariant(13)
async def test_a_cause_is_reported_with_the_error(bus: Bus) -> None:
    """`raise … from …` names both."""
    async with listening(bus, [with_cause]):
        with pytest.raises(RequestFailed) as failed:
            await bus.request_and_reply(STREAM, "work:cause", {}, 10)
    assert "card not charged" in failed.value.message
    assert "ConnectionResetError: bank hung up" in failed.value.message
