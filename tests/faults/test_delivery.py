"""Entries that come twice, not at all, or to somebody who never saw them."""

import asyncio
import random
from typing import Any

import pytest

from sagastream import Bus
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.faults.asking import ask, notes, until_noted
from tests.faults.figures import Figures
from tests.faults.invariants import STREAM, look
from tests.faults.roles import listener, listening, spawn

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(120)]


@pytest.mark.invariant(1)
async def test_every_command_three_times_and_shuffled_is_one_run_each(
    store: EmbeddedServer, figures: Figures
) -> None:
    """Entries that another copied into the stream, before and after the end, are absorbed."""
    async with Bus(store.url) as bus:
        asked = [ask(bus, {"echo": {"n": n}}, f"r{n}") for n in range(20)]
        with look(store) as client:
            while client.xlen(STREAM) < 20:
                await asyncio.sleep(0.02)
            copies = [fields for _, fields in client.xrange(STREAM)] * 2
            random.Random(3).shuffle(copies)
            for fields in copies[:20]:
                client.xadd(STREAM, fields)
            with listening(store.url):
                replies = await asyncio.gather(*asked)
                for fields in copies[20:]:
                    client.xadd(STREAM, fields)
                await ask(bus, {}, "last")
                while client.xpending(STREAM, "sagastream")["pending"]:
                    await asyncio.sleep(0.02)
    assert [reply["payload"] for reply in replies] == [{"epoch": 1, "n": n} for n in range(20)]
    assert notes(store).count("done 1") == 21
    row = figures.row("every command three times, shuffled")
    row.check(store, *(f"r{number}" for number in range(20)), entries=3)


@pytest.mark.parametrize("loss", ["stream", "group"])
@pytest.mark.invariant(2)
async def test_commands_whose_stream_was_deleted_are_put_back(
    store: EmbeddedServer, loss: str, figures: Figures
) -> None:
    """What was asked and not done is done, from the records, with one end each."""
    async with Bus(store.url) as bus:
        with look(store) as client:
            asked = [ask(bus, {"echo": {"n": n}}, f"r{n}") for n in range(30)]
            while client.xlen(STREAM) < 30:
                await asyncio.sleep(0.02)
            client.xadd(STREAM, {"event_type": "work:do", "payload": "{}"})
            with listening(store.url) as first:
                await until_noted(store, "done 1")
                first.kill()
            if loss == "stream":
                client.delete(STREAM)
            else:
                client.xgroup_destroy(STREAM, "sagastream")
            with listening(store.url):
                replies = await asyncio.wait_for(asyncio.gather(*asked), 60)
                # Entries that the new group brought again are acked soon after.
                row = figures.row(f"{loss} deleted, with open requests")
                row.check(store, *(f"r{number}" for number in range(30)), entries=None)
            assert client.zcard(f"{STREAM}:open") == 0
    assert [reply["payload"]["n"] for reply in replies] == list(range(30))


async def test_a_delivery_that_was_lost_on_the_way_is_found_again(
    store: EmbeddedServer, figures: Figures
) -> None:
    """The command is pending for a listener that never saw it: its own sweep brings it."""
    lost: list[int] = []

    def plan(number: int, command: Any) -> Fault:
        if not lost and command[0] == b"XREADGROUP":
            lost.append(number)
            return Fault.AFTER
        return Fault.NONE

    async with Bus(store.url) as bus:
        asked = ask(bus, {})
        with look(store) as client:
            while not client.xlen(STREAM):
                await asyncio.sleep(0.02)
        with FaultProxy(store.url, plan) as proxy:
            process = spawn(listener, proxy.url)
            try:
                reply = await asyncio.wait_for(asked, 20)
            finally:
                process.kill()
                process.join()
    assert lost
    assert reply["payload"] == {"epoch": 1}
    figures.row("answer of a read lost, with the command in it").check(store, "r")
