"""A process is killed before and after every command that it sends, one run a point."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from sagastream import Bus, RequestCancelled
from sagastream.fault_proxy import Fault, FaultProxy
from sagastream.testing import EmbeddedServer
from tests.faults.conftest import check_request, look
from tests.faults.roles import LEASE_S, STREAM, listener, listening, requester, spawn

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(600)]

_LIMIT = 60


def _points(request: pytest.FixtureRequest) -> int:
    """Every point in the long form, each third in the short one."""
    return 1 if request.config.getoption("--long") else 3


class Victim:
    """One role behind a proxy that kills it at one point.

    Idle loops send commands for ever, so points end where the story has ended: `over` says
    when, and a run in which no kill took place by then is the last.
    """

    def __init__(self, store: EmbeddedServer, number: int, fault: Fault) -> None:
        self.killed = threading.Event()
        self._number, self._fault = number, fault
        self._process: BaseProcess | None = None
        self._proxy = FaultProxy(store.url, self._plan, on_fault=self._kill)

    def _plan(self, number: int, _command: Any) -> Fault:
        return self._fault if number == self._number else Fault.NONE

    def _kill(self) -> None:
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self.killed.set()

    @contextmanager
    def running(self, role: Callable[..., None], *arguments: Any) -> Iterator["Victim"]:
        with self._proxy:
            self._process = spawn(role, self._proxy.url, *arguments)
            try:
                yield self
            finally:
                self._process.kill()
                self._process.join()


def _clean(store: EmbeddedServer) -> None:
    with look(store) as client:
        client.flushall()


async def _ask(store: EmbeddedServer, **options: Any) -> dict[str, Any]:
    async with Bus(store.url) as bus:
        return await bus.request_and_reply(
            STREAM, "work:do", {}, 20, request_id="r", correlation_id="c", **options
        )


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
def test_a_listener_killed_at_any_command_loses_and_doubles_nothing(
    store: EmbeddedServer, fault: Fault, request: pytest.FixtureRequest
) -> None:
    """Another listener finishes the request; its requester gets one reply."""
    points = 0
    for number in range(1, _LIMIT, _points(request)):
        _clean(store)
        victim = Victim(store, number, fault)
        survived: set[Victim] = set()

        async def story(
            victim: Victim = victim, survived: set[Victim] = survived
        ) -> dict[str, Any]:
            asked = asyncio.create_task(_ask(store))
            killed = asyncio.create_task(asyncio.to_thread(victim.killed.wait, 20))
            await asyncio.wait({asked, killed}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                survived.add(victim)
                victim.killed.set()
                return await asked
            with listening(store.url):
                return await asked

        with victim.running(listener):
            reply = asyncio.run(story())
        assert reply["status"] == "completed"
        check_request(store, "r")
        points += 1
        if survived:
            break
    else:
        raise AssertionError(f"the story does not end within {_LIMIT} commands")
    assert points >= 3
    print(f"listener killed {fault.name} {points} commands")  # noqa: T201 - the count is the result


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
def test_a_requester_killed_at_any_command_can_come_back(
    store: EmbeddedServer, fault: Fault, request: pytest.FixtureRequest
) -> None:
    """Whoever asks again with the id gets the reply of the one run."""
    points = 0
    with listening(store.url):
        for number in range(1, _LIMIT, _points(request)):
            with look(store) as client:
                client.delete("notes")
            victim = Victim(store, number, fault)
            request_id = f"r{number}"
            with victim.running(requester, request_id):
                assert victim._process is not None
                victim._process.join(20)
                reply = asyncio.run(_again(store, request_id))
            assert reply["status"] == "completed"
            check_request(store, request_id)
            with look(store) as client:
                assert [n for n in client.lrange("notes", 0, -1) if n.startswith("begun")] == [
                    "begun 1"
                ]
            points += 1
            if not victim.killed.is_set():
                break
        else:
            raise AssertionError(f"the story does not end within {_LIMIT} commands")
    assert points >= 3
    print(f"requester killed {fault.name} {points} commands")  # noqa: T201 - the count is the result


async def _again(store: EmbeddedServer, request_id: str) -> dict[str, Any]:
    async with Bus(store.url) as bus:
        return await bus.request_and_reply(
            STREAM, "work:do", {}, 20, request_id=request_id, correlation_id="c"
        )


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
def test_a_cancel_survives_the_listener_that_should_obey_it(
    store: EmbeddedServer, fault: Fault
) -> None:
    """The flag stands in the record: who takes the request over cancels it at once."""
    _clean(store)

    async def story() -> None:
        async with Bus(store.url) as bus:
            asked = asyncio.create_task(
                bus.request_and_reply(
                    STREAM, "work:do", {"wait": 1}, 20, request_id="r", correlation_id="c"
                )
            )
            with look(store) as client:
                while not client.llen("notes"):
                    await asyncio.sleep(0.02)
            if fault is Fault.BEFORE:
                first.kill()
            assert await bus.cancel("r") == "cancelling"
            first.kill()
            with listening(store.url), pytest.raises(RequestCancelled):
                await asyncio.wait_for(asked, 20 * LEASE_S)

    first = spawn(listener, store.url)
    try:
        asyncio.run(story())
    finally:
        first.kill()
        first.join()
    check_request(store, "r", "cancelled")
