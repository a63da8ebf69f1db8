"""Processes that stop, servers that go away, answers that never come."""

import asyncio
import os
import random
import signal
import time
from typing import Any

import pytest

from sagastream import Bus, HandlerLost, ServerRefused
from sagastream.fault_proxy import Fault, FaultProxy
from sagastream.testing import EmbeddedServer
from tests.faults.conftest import check_request, look
from tests.faults.roles import LEASE_S, STREAM, listener, listening, spawn

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(120)]


def _notes(store: EmbeddedServer) -> list[str]:
    with look(store) as client:
        return [str(note) for note in client.lrange("notes", 0, -1)]


async def _until_noted(store: EmbeddedServer, note: str) -> None:
    while note not in _notes(store):
        await asyncio.sleep(0.02)


def _ask(bus: Bus, payload: dict[str, Any], request_id: str = "r") -> Any:
    return asyncio.create_task(
        bus.request_and_reply(
            STREAM, "work:do", payload, 60, request_id=request_id, correlation_id="c"
        )
    )


async def test_a_handler_that_blocks_its_loop_for_three_leases_runs_once(
    store: EmbeddedServer,
) -> None:
    """The lease is renewed from a thread: a blocked loop is not a dead handler."""
    with listening(store.url), listening(store.url):
        async with Bus(store.url) as bus:
            reply = await _ask(bus, {"block_s": 3 * LEASE_S})
    assert reply["payload"] == {"epoch": 1}
    assert _notes(store) == ["begun 1", "done 1"]
    check_request(store, "r")


async def test_a_handler_that_was_stopped_writes_nothing_when_it_goes_on(
    store: EmbeddedServer,
) -> None:
    """SIGSTOP for three leases: another finishes the work, the first one's result is refused."""
    async with Bus(store.url) as bus:
        with listening(store.url) as first:
            asked = _ask(bus, {"block_s": LEASE_S / 2})
            await _until_noted(store, "begun 1")
            assert first.pid is not None
            os.kill(first.pid, signal.SIGSTOP)
            with listening(store.url):
                reply = await asked
                os.kill(first.pid, signal.SIGCONT)
                await _until_noted(store, "done 2")
                other = await _ask(bus, {}, "other")
    assert reply["payload"] == {"epoch": 2}
    assert other["status"] == "completed"
    check_request(store, "r")


async def test_a_handler_that_is_killed_is_replaced_within_one_and_a_half_leases(
    store: EmbeddedServer,
) -> None:
    """From the kill to the next begin, with another listener there."""
    async with Bus(store.url) as bus:
        with listening(store.url) as first:
            asked = _ask(bus, {"block_s": 1})
            await _until_noted(store, "begun 1")
            with listening(store.url):
                with look(store) as client:
                    while len(client.zrange(f"listeners:{STREAM}", 0, -1)) < 2:
                        await asyncio.sleep(0.02)
                await asyncio.sleep(LEASE_S)  # a new sweeper first hears the server for a lease
                first.kill()
                killed = time.monotonic()
                await _until_noted(store, "begun 2")
                took = time.monotonic() - killed
                await asked
    check_request(store, "r")
    print(f"replaced after {took / LEASE_S:.2f} leases")  # noqa: T201 - the figure is the result


async def test_a_command_that_kills_every_handler_is_given_up(store: EmbeddedServer) -> None:
    """Five handlers die, then it is one dead letter and one failed reply."""
    async with Bus(store.url) as bus:
        asked = _ask(bus, {"die": 1})
        started = 0
        while not asked.done():
            with listening(store.url) as process:
                started += 1
                while process.is_alive() and not asked.done():
                    await asyncio.sleep(0.02)
        with pytest.raises(HandlerLost):
            await asked
    assert [note for note in _notes(store) if note.startswith("begun")] == [
        f"begun {epoch}" for epoch in range(1, 6)
    ]
    with look(store) as client:
        assert client.xlen(f"{STREAM}:dead") == 1
    check_request(store, "r", "failed")


@pytest.mark.parametrize("how", ["kill", "restart"])
async def test_a_server_that_comes_back_is_a_delay(store: EmbeddedServer, how: str) -> None:
    """Requester and listener go on by themselves, and nothing runs twice."""
    with listening(store.url):
        async with Bus(store.url) as bus:
            await _ask(bus, {}, "warm")
            asked = _ask(bus, {"block_s": 0.3})
            await _until_noted(store, "begun 1")
            if how == "kill":
                await asyncio.sleep(1.1)  # everysec: what is older than a second is on disk
                store.kill()
                store.start()
            else:
                store.restart()
            reply = await asked
            more = await asyncio.gather(*(_ask(bus, {}, f"r{n}") for n in range(20)))
    assert reply["status"] == "completed"
    assert len(more) == 20
    check_request(store, "r")


async def test_a_frozen_server_lapses_nobody(store: EmbeddedServer) -> None:
    """Three leases without the server: the handler keeps its claim."""
    with listening(store.url), listening(store.url):
        async with Bus(store.url) as bus:
            asked = _ask(bus, {"block_s": 2 * LEASE_S})
            await _until_noted(store, "begun 1")
            os.kill(store.pid, signal.SIGSTOP)
            await asyncio.sleep(3 * LEASE_S)
            os.kill(store.pid, signal.SIGCONT)
            reply = await asked
    assert reply["payload"] == {"epoch": 1}
    assert _notes(store) == ["begun 1", "done 1"]


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_lost_answers_do_not_double_a_command(store: EmbeddedServer, fault: Fault) -> None:
    """Many commands lose their connection; each request is one entry and one run."""
    dice = random.Random(1)

    def plan(_number: int, _command: Any) -> Fault:
        return fault if dice.random() < 0.3 else Fault.NONE

    with listening(store.url), FaultProxy(store.url, plan) as proxy:
        async with Bus(proxy.url) as bus:
            replies = [await _ask(bus, {}, f"r{number}") for number in range(10)]
    assert [reply["payload"] for reply in replies] == [{"epoch": 1}] * 10
    for number in range(10):
        check_request(store, f"r{number}")


async def test_connections_that_are_killed_all_the_time_cost_nothing(
    store: EmbeddedServer,
) -> None:
    """CLIENT KILL in a loop: every request is answered once."""
    with listening(store.url):
        async with Bus(store.url) as bus:
            asked = [_ask(bus, {}, f"r{number}") for number in range(50)]
            with look(store) as client:
                while not all(task.done() for task in asked):
                    client.client_kill_filter(_type="normal", skipme=True)
                    await asyncio.sleep(0.05)
            replies = await asyncio.gather(*asked)
    assert {reply["status"] for reply in replies} == {"completed"}
    with look(store) as client:
        assert client.xlen(STREAM) == 50


@pytest.mark.parametrize("fault", [Fault.SWALLOW, Fault.HALF_OPEN])
async def test_an_answer_that_never_comes_is_asked_for_again(
    store: EmbeddedServer, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that hangs is given up after its timeout; the request is still one."""
    monkeypatch.setattr("sagastream.connection.SOCKET_TIMEOUT_S", 1.5)
    hung: list[int] = []

    def plan(number: int, command: Any) -> Fault:
        if not hung and command[0] == b"FCALL" and b"_emit" in command[1]:
            hung.append(number)
            return fault
        return Fault.NONE

    with listening(store.url), FaultProxy(store.url, plan) as proxy:
        async with Bus(proxy.url) as bus:
            reply = await _ask(bus, {})
    assert hung
    assert reply["payload"] == {"epoch": 1}
    check_request(store, "r")


async def test_a_slow_network_loses_no_lease(store: EmbeddedServer) -> None:
    """Each command takes a sixth of a lease: nobody is taken for dead."""
    with FaultProxy(store.url, delay_s=LEASE_S / 6) as proxy:
        slow = spawn(listener, proxy.url)
        try:
            async with Bus(store.url) as bus:
                asked = _ask(bus, {"block_s": 3 * LEASE_S})
                await _until_noted(store, "begun 1")
                with listening(store.url):
                    reply = await asked
        finally:
            slow.kill()
            slow.join()
    assert reply["payload"] == {"epoch": 1}
    assert _notes(store) == ["begun 1", "done 1"]


@pytest.mark.parametrize("trouble", ["full", "replica"])
async def test_a_server_that_takes_no_writes_for_a_while(
    store: EmbeddedServer, trouble: str
) -> None:
    """Work that is done waits for the server; nothing is acked without its reply."""
    with listening(store.url), look(store) as client:
        async with Bus(store.url, patience_s=0.5) as bus:
            asked = _ask(bus, {"block_s": 2 * LEASE_S})
            await _until_noted(store, "begun 1")
            if trouble == "full":
                client.config_set("maxmemory", 1)
            else:
                client.replicaof("127.0.0.1", "1")
            with pytest.raises(ServerRefused, match="takes no writes"):
                await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="no")
            await asyncio.sleep(3 * LEASE_S)
            assert client.xpending(STREAM, "sagastream")["pending"] == 1
            if trouble == "full":
                client.config_set("maxmemory", 0)
            else:
                client.replicaof("NO", "ONE")
            reply = await asked
            assert (await _ask(bus, {}, "no"))["status"] == "completed"
    assert reply["payload"] == {"epoch": 1}
    check_request(store, "r")


async def test_every_command_three_times_and_shuffled_is_one_run_each(
    store: EmbeddedServer,
) -> None:
    """Entries that another copied into the stream, before and after the end, are absorbed."""
    async with Bus(store.url) as bus:
        asked = [_ask(bus, {"echo": {"n": n}}, f"r{n}") for n in range(20)]
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
                await _ask(bus, {}, "last")
                while client.xpending(STREAM, "sagastream")["pending"]:
                    await asyncio.sleep(0.02)
    assert [reply["payload"] for reply in replies] == [{"epoch": 1, "n": n} for n in range(20)]
    assert _notes(store).count("done 1") == 21


@pytest.mark.parametrize("loss", ["stream", "group"])
async def test_commands_whose_stream_was_deleted_are_put_back(
    store: EmbeddedServer, loss: str
) -> None:
    """What was asked and not done is done, from the records, with one end each."""
    async with Bus(store.url) as bus:
        with look(store) as client:
            asked = [_ask(bus, {"echo": {"n": n}}, f"r{n}") for n in range(30)]
            while client.xlen(STREAM) < 30:
                await asyncio.sleep(0.02)
            client.xadd(STREAM, {"event_type": "work:do", "payload": "{}"})
            with listening(store.url) as first:
                await _until_noted(store, "done 1")
                first.kill()
            if loss == "stream":
                client.delete(STREAM)
            else:
                client.xgroup_destroy(STREAM, "sagastream")
            with listening(store.url):
                replies = await asyncio.wait_for(asyncio.gather(*asked), 60)
            assert client.zcard(f"{STREAM}:open") == 0
    assert [reply["payload"]["n"] for reply in replies] == list(range(30))
    for number in range(30):
        with look(store) as client:
            record = client.hgetall(f"request:r{number}")
            ends = [
                fields["status"]
                for _, fields in client.xrange(f"request:r{number}:stages")
                if fields["status"] in {"completed", "failed"}
            ]
        assert (record["status"], ends) == ("completed", ["completed"])


async def test_a_delivery_that_was_lost_on_the_way_is_found_again(store: EmbeddedServer) -> None:
    """The command is pending for a listener that never saw it: its own sweep brings it."""
    lost: list[int] = []

    def plan(number: int, command: Any) -> Fault:
        if not lost and command[0] == b"XREADGROUP":
            lost.append(number)
            return Fault.AFTER
        return Fault.NONE

    async with Bus(store.url) as bus:
        asked = _ask(bus, {})
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
    check_request(store, "r")


async def test_sigterm_finishes_what_runs_and_ends_the_process(store: EmbeddedServer) -> None:
    """The handler's reply is written, then the process ends by itself and well."""
    with listening(store.url) as process:
        async with Bus(store.url) as bus:
            asked = _ask(bus, {"block_s": 2 * LEASE_S})
            await _until_noted(store, "begun 1")
            process.terminate()
            reply = await asked
        await asyncio.to_thread(process.join, 20)
        assert process.exitcode == 0
    assert reply["payload"] == {"epoch": 1}
    check_request(store, "r")
