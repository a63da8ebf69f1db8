"""Connections that break, hang, or are slow."""

import asyncio
import random
from typing import Any

import pytest

from sagastream import Bus, InvalidMessage
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.faults.client import handler_log, send_request, wait_for_listeners, wait_for_log
from tests.faults.invariants import STREAM
from tests.faults.report import Report
from tests.faults.roles import LEASE_S, listener_process
from tests.plain_client import connect

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(300)]


def _entries_a_request(store: EmbeddedServer, requests: int) -> str:
    with connect(store.url) as client:
        return f"{client.xlen(STREAM) / requests:.3f}"


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
@pytest.mark.invariant(1)
@pytest.mark.invariant(12)
async def test_lost_answers_do_not_duplicate_a_command(
    store: EmbeddedServer, fault: Fault, report: Report
) -> None:
    """The connection is reset at many commands; each request has one entry and one run."""
    rng = random.Random(1)

    def plan(_number: int, _command: Any) -> Fault:
        return fault if rng.random() < 0.3 else Fault.NONE

    with listener_process(store.url), FaultProxy(store.url, plan) as proxy:
        async with Bus(proxy.url) as bus:
            replies = [await send_request(bus, {}, f"r{number}") for number in range(10)]
    assert [reply["payload"] for reply in replies] == [{"attempt": 1}] * 10
    row = report.row("3 in 10 commands reset, before or after they are carried out")
    row.notes["entries per request"] = _entries_a_request(store, 10)
    row.check(store, *(f"r{number}" for number in range(10)))


@pytest.mark.parametrize("fault", [Fault.SWALLOW, Fault.HALF_OPEN])
@pytest.mark.invariant(12)
async def test_a_command_without_an_answer_is_sent_again(
    store: EmbeddedServer,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
    report: Report,
    is_long: bool,
) -> None:
    """A hanging connection is closed after its timeout; the request still has one entry."""
    monkeypatch.setattr("sagastream._redis.protocol.ANSWER_TIMEOUT_S", 1.2)
    hung: set[bytes] = set()

    def plan(_number: int, command: Any) -> Fault:
        if command[0] == b"FCALL" and b"_emit" in command[1] and command[3] not in hung:
            hung.add(command[3])
            return fault
        return Fault.NONE

    count = 50 if is_long else 5
    with listener_process(store.url), FaultProxy(store.url, plan) as proxy:

        async def one(number: int) -> Any:
            # One bus for each: requests on one bus would share a connection and hang together.
            async with Bus(proxy.url) as bus:
                return await send_request(bus, {}, f"r{number}")

        replies = await asyncio.gather(*(one(number) for number in range(count)))
    assert len(hung) == count
    assert [reply["payload"] for reply in replies] == [{"attempt": 1}] * count
    what = "swallowed" if fault is Fault.SWALLOW else "missing, the connection half open"
    row = report.row(f"the answer to each emit {what}")
    row.notes["entries per request"] = _entries_a_request(store, count)
    row.check(store, *(f"r{number}" for number in range(count)))


async def test_killed_connections_lose_no_request(store: EmbeddedServer, report: Report) -> None:
    """With all connections killed every 50 ms, each request is answered once."""
    with listener_process(store.url):
        async with Bus(store.url) as bus:
            asked = [send_request(bus, {}, f"r{number}") for number in range(50)]
            with connect(store.url) as client:
                while not all(task.done() for task in asked):
                    client.client_kill_filter(_type="normal", skipme=True)
                    await asyncio.sleep(0.05)  # the rate of the fault
            replies = await asyncio.gather(*asked)
    assert {reply["status"] for reply in replies} == {"completed"}
    row = report.row("all connections killed (CLIENT KILL) every 50 ms")
    row.notes["entries per request"] = _entries_a_request(store, 50)
    row.check(store, *(f"r{number}" for number in range(50)))


async def test_a_slow_network_loses_no_lease(store: EmbeddedServer, report: Report) -> None:
    """With 200 ms for each command, and some stalled for longer, no lease lapses."""
    lease_s = 4 * LEASE_S
    rng = random.Random(9)

    def plan(_number: int, _command: Any) -> Fault:
        return Fault.STALL if rng.random() < 0.01 else Fault.NONE

    with FaultProxy(store.url, plan, delay_s=0.2, stall_s=0.7) as proxy:
        async with Bus(proxy.url) as bus:
            with listener_process(proxy.url, lease_s=lease_s):
                asked = [send_request(bus, {"block_s": lease_s / 4}, f"r{n}") for n in range(8)]
                await wait_for_log(store, "begun 1")
                with listener_process(store.url, lease_s=lease_s):
                    replies = await asyncio.gather(*asked)
    assert [reply["payload"] for reply in replies] == [{"attempt": 1}] * 8
    assert handler_log(store).count("begun 1") == 8
    row = report.row("200 ms per command, 1 % of them stalled for another 0.7 s")
    row.notes["leases lost"] = str(sum(line != "begun 1" for line in handler_log(store)) - 8)
    row.check(store, *(f"r{number}" for number in range(8)))


async def test_a_payload_over_the_limit_is_refused_before_a_byte_is_sent(
    store: EmbeddedServer, report: Report
) -> None:
    """Nothing is sent, not even the handshake; a payload below the limit is accepted."""
    row = report.row("payload over the limit")
    with listener_process(store.url), FaultProxy(store.url) as proxy:
        async with Bus(proxy.url) as bus:
            for size in (bus.max_payload, 2 * bus.max_payload, 100 * bus.max_payload):
                with pytest.raises(InvalidMessage, match="payload"):
                    await bus.emit_command(
                        STREAM, event_type="work:do", payload={"text": "x" * size}
                    )
            sent = sum(len(part) for command in proxy.commands for part in command)
            row.notes["bytes sent"] = str(sent)
            assert sent == 0
            await wait_for_listeners(store, 1)
            reply = await send_request(bus, {"echo": {"text": "x" * (bus.max_payload // 2)}})
    assert len(reply["payload"]["text"]) == bus.max_payload // 2
    row.check(store, "r")
