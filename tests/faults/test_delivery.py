"""Entries that are delivered twice, not at all, or to a listener that never received them."""

import asyncio
import random
from typing import Any

import pytest

from sagastream import Bus
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.faults.client import handler_log, send_request, wait_for_commands, wait_for_log
from tests.faults.invariants import STREAM
from tests.faults.report import Report
from tests.faults.roles import listener_process
from tests.plain_client import GROUP, connect
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(120)]


@pytest.mark.invariant(1)
async def test_every_command_three_times_and_shuffled_is_one_run_each(
    store: EmbeddedServer, report: Report
) -> None:
    """Copies of entries, added before and after the end of a request, are ignored."""
    async with Bus(store.url) as bus:
        asked = [send_request(bus, {"echo": {"n": n}}, f"r{n}") for n in range(20)]
        await wait_for_commands(store, 20)
        with connect(store.url) as client:
            copies = [fields for _, fields in client.xrange(STREAM)] * 2
            random.Random(3).shuffle(copies)
            for fields in copies[:20]:
                client.xadd(STREAM, fields)
            with listener_process(store.url):
                replies = await asyncio.gather(*asked)
                for fields in copies[20:]:
                    client.xadd(STREAM, fields)
                await send_request(bus, {}, "last")
                await eventually(
                    lambda: not client.xpending(STREAM, GROUP)["pending"],
                    within_s=60,
                    why="all entries are acknowledged",
                )
    assert [reply["payload"] for reply in replies] == [{"attempt": 1, "n": n} for n in range(20)]
    assert handler_log(store).count("done 1") == 21
    row = report.row("every command three times, shuffled")
    row.check(store, *(f"r{number}" for number in range(20)), entries=3)


@pytest.mark.parametrize("loss", ["stream", "group"])
@pytest.mark.invariant(2)
async def test_commands_of_a_deleted_stream_are_requeued(
    store: EmbeddedServer, loss: str, report: Report
) -> None:
    """Open requests are sent again from their records, and each ends once."""
    async with Bus(store.url) as bus:
        with connect(store.url) as client:
            asked = [send_request(bus, {"echo": {"n": n}}, f"r{n}") for n in range(30)]
            await wait_for_commands(store, 30)
            client.xadd(STREAM, {"event_type": "work:do", "payload": "{}"})
            with listener_process(store.url) as first:
                await wait_for_log(store, "done 1")
                first.kill()
            if loss == "stream":
                client.delete(STREAM)
            else:
                client.xgroup_destroy(STREAM, GROUP)
            with listener_process(store.url):
                replies = await asyncio.wait_for(asyncio.gather(*asked), 60)
                # `check` waits until the entries that the new group delivered again are acked.
                row = report.row(f"{loss} deleted, with open requests")
                row.check(store, *(f"r{number}" for number in range(30)), entries=None)
            assert client.zcard(f"{STREAM}:open") == 0
    assert [reply["payload"]["n"] for reply in replies] == list(range(30))


async def test_a_lost_delivery_is_found_by_the_listeners_sweep(
    store: EmbeddedServer, report: Report
) -> None:
    """The command is pending for a listener that never received it; its own sweep finds it."""
    lost: list[int] = []

    def plan(number: int, command: Any) -> Fault:
        if not lost and command[0] == b"XREADGROUP":
            lost.append(number)
            return Fault.AFTER
        return Fault.NONE

    async with Bus(store.url) as bus:
        asked = send_request(bus, {})
        await wait_for_commands(store, 1)
        with FaultProxy(store.url, plan) as proxy, listener_process(proxy.url):
            reply = await asyncio.wait_for(asked, 20)
    assert lost
    assert reply["payload"] == {"attempt": 1}
    report.row("answer of a read lost, with the command in it").check(store, "r")
