"""Connections that break, hang and are slow."""

import asyncio
import random
from typing import Any

import pytest

from sagastream import Bus, InvalidMessage
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.faults.asking import ask, notes, until_listening, until_noted
from tests.faults.figures import Figures
from tests.faults.invariants import STREAM, look
from tests.faults.roles import LEASE_S, listener, listening, spawn

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(300)]


def _entries_a_request(store: EmbeddedServer, requests: int) -> str:
    with look(store) as client:
        return f"{client.xlen(STREAM) / requests:.3f}"


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
@pytest.mark.invariant(1)
@pytest.mark.invariant(12)
async def test_lost_answers_do_not_double_a_command(
    store: EmbeddedServer, fault: Fault, figures: Figures
) -> None:
    """Many commands lose their connection; each request is one entry and one run."""
    dice = random.Random(1)

    def plan(_number: int, _command: Any) -> Fault:
        return fault if dice.random() < 0.3 else Fault.NONE

    with listening(store.url), FaultProxy(store.url, plan) as proxy:
        async with Bus(proxy.url) as bus:
            replies = [await ask(bus, {}, f"r{number}") for number in range(10)]
    assert [reply["payload"] for reply in replies] == [{"epoch": 1}] * 10
    row = figures.row("3 in 10 commands reset, before or after they are carried out")
    row.notes["entries a request"] = _entries_a_request(store, 10)
    row.check(store, *(f"r{number}" for number in range(10)))


@pytest.mark.parametrize("fault", [Fault.SWALLOW, Fault.HALF_OPEN])
@pytest.mark.invariant(12)
async def test_an_answer_that_never_comes_is_asked_for_again(
    store: EmbeddedServer,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
    is_long: bool,
) -> None:
    """A connection that hangs is given up after its timeout; the request is still one entry."""
    monkeypatch.setattr("sagastream._redis.protocol.ANSWER_TIMEOUT_S", 1.2)
    hung: set[bytes] = set()

    def plan(_number: int, command: Any) -> Fault:
        if command[0] == b"FCALL" and b"_emit" in command[1] and command[3] not in hung:
            hung.add(command[3])
            return fault
        return Fault.NONE

    count = 50 if is_long else 5
    with listening(store.url), FaultProxy(store.url, plan) as proxy:

        async def one(number: int) -> Any:
            # A bus each: the requests of one would share a connection, and hang together.
            async with Bus(proxy.url) as bus:
                return await ask(bus, {}, f"r{number}")

        replies = await asyncio.gather(*(one(number) for number in range(count)))
    assert len(hung) == count
    assert [reply["payload"] for reply in replies] == [{"epoch": 1}] * count
    what = "swallowed" if fault is Fault.SWALLOW else "never given, the connection half open"
    row = figures.row(f"the answer to each emit {what}")
    row.notes["entries a request"] = _entries_a_request(store, count)
    row.check(store, *(f"r{number}" for number in range(count)))


async def test_connections_that_are_killed_all_the_time_cost_nothing(
    store: EmbeddedServer, figures: Figures
) -> None:
    """CLIENT KILL in a loop: every request is answered once."""
    with listening(store.url):
        async with Bus(store.url) as bus:
            asked = [ask(bus, {}, f"r{number}") for number in range(50)]
            with look(store) as client:
                while not all(task.done() for task in asked):
                    client.client_kill_filter(_type="normal", skipme=True)
                    await asyncio.sleep(0.05)
            replies = await asyncio.gather(*asked)
    assert {reply["status"] for reply in replies} == {"completed"}
    row = figures.row("all connections killed (CLIENT KILL) every 50 ms")
    row.notes["entries a request"] = _entries_a_request(store, 50)
    row.check(store, *(f"r{number}" for number in range(50)))


async def test_a_slow_network_loses_no_lease(store: EmbeddedServer, figures: Figures) -> None:
    """200 ms a command, and one in a hundred held up for longer: nobody is taken for dead."""
    lease_s = 4 * LEASE_S
    dice = random.Random(9)

    def plan(_number: int, _command: Any) -> Fault:
        return Fault.STALL if dice.random() < 0.01 else Fault.NONE

    with FaultProxy(store.url, plan, delay_s=0.2, stall_s=0.7) as proxy:
        slow = spawn(listener, proxy.url, lease_s=lease_s)
        try:
            async with Bus(proxy.url) as bus:
                asked = [ask(bus, {"block_s": lease_s / 4}, f"r{n}") for n in range(8)]
                await until_noted(store, "begun 1")
                with listening(store.url, lease_s=lease_s):
                    replies = await asyncio.gather(*asked)
        finally:
            slow.kill()
            slow.join()
    assert [reply["payload"] for reply in replies] == [{"epoch": 1}] * 8
    assert notes(store).count("begun 1") == 8
    row = figures.row("200 ms a command, 1 % of them stalled for 0.7 s more")
    row.notes["leases lost"] = str(sum(note != "begun 1" for note in notes(store)) - 8)
    row.check(store, *(f"r{number}" for number in range(8)))


async def test_a_payload_over_the_limit_is_refused_before_a_byte_is_sent(
    store: EmbeddedServer, figures: Figures
) -> None:
    """The server hears nothing of it, not even who asks; what fits goes through."""
    row = figures.row("payload over the limit")
    with listening(store.url), FaultProxy(store.url) as proxy:
        async with Bus(proxy.url) as bus:
            for size in (bus.max_payload, 2 * bus.max_payload, 100 * bus.max_payload):
                with pytest.raises(InvalidMessage, match="payload"):
                    await bus.emit_command(
                        STREAM, event_type="work:do", payload={"text": "x" * size}
                    )
            sent = sum(len(part) for command in proxy.commands for part in command)
            row.notes["bytes sent"] = str(sent)
            assert sent == 0
            await until_listening(store, 1)
            reply = await ask(bus, {"echo": {"text": "x" * (bus.max_payload // 2)}})
    assert len(reply["payload"]["text"]) == bus.max_payload // 2
    row.check(store, "r")
