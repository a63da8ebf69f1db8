"""Small promises at the edges: payloads of any mapping, builders, leases that are over, leaving."""

import asyncio
from collections import ChainMap, UserDict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from sagastream import (
    Bus,
    Command,
    InvalidMessage,
    Progress,
    ReplyTimeout,
    Retention,
    multi_stage_reply,
)
from sagastream._codec.payload import encode_payload
from sagastream._worker.claim import Claim
from sagastream._worker.consumer import Delivery
from sagastream._worker.lease import ClaimOptions, Leased
from sagastream.errors import ServerUnavailable
from sagastream.saga import Saga, SagaRunner, Step
from tests.listeners import listening
from tests.records import alter_record

STREAM = "work:commands"


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command, _progress: Progress) -> dict[str, Any]:
    """Return the payload."""
    return command.payload


@pytest.mark.parametrize(
    "mapping",
    [
        MappingProxyType({"a": 1}),
        UserDict({"a": 1}),
        ChainMap({"a": 1}),
        {"inner": MappingProxyType({"a": UserDict({"b": 2})})},
    ],
)
def test_any_mapping_is_a_payload(mapping: Any) -> None:
    """At the top and inside, it is encoded as an object."""
    assert encode_payload(mapping) in {'{"a":1}', '{"inner":{"a":{"b":2}}}'}


@pytest.mark.parametrize(("value", "name"), [(np.bool_(True), "numpy"), (np.float32(1), "numpy")])
def test_a_scalar_of_another_library_is_named_with_its_module(value: Any, name: str) -> None:
    """Otherwise it reads as if `bool` were not JSON."""
    with pytest.raises(InvalidMessage, match=rf"payload\.x: is a {name}\."):
        encode_payload({"x": value})


async def test_a_payload_builder_cannot_change_the_journal(bus: Bus) -> None:
    """Starting the saga again with the same input is still the same saga."""

    def build(given: dict[str, Any], _results: Any) -> dict[str, Any]:
        given["list"].append("changed")
        return dict(given)

    given = {"list": ["kept"]}
    async with listening(bus, [work]):
        runner = SagaRunner(bus, Saga("trip", (Step("only", STREAM, "work:do", build),)))
        saga_id = await runner.start(given, saga_id="s")
        await runner.run(saga_id)
        assert (await runner.journal("s")).input == {"list": ["kept"]}
        assert await runner.start({"list": ["kept"]}, saga_id="s") == "s"


async def test_a_builder_that_reads_a_missing_result_gets_a_hint(bus: Bus) -> None:
    """Only completed steps have results."""
    step = Step("only", STREAM, "work:do", lambda _given, results: results["other"])
    runner = SagaRunner(bus, Saga("trip", (step, Step("other", STREAM, "work:do", lambda g, _: g))))
    outcome = await runner.run(await runner.start({}))
    assert "results.get('other')" in outcome.error["message"]


async def test_a_timeout_after_a_release_does_not_count_from_1970(bus: Bus) -> None:
    """The lease of a released claim is over, however long ago."""
    async with listening(bus, [work]):
        await bus.request_and_reply(STREAM, "work:do", {}, 10, request_id="other")
    await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
    await alter_record(bus, "r", status="running", consumer="a", attempts=1, lease_until=0)
    with pytest.raises(ReplyTimeout) as late:
        await bus.request_and_reply(STREAM, "work:do", {}, 0.2, request_id="r")
    assert "released" in late.value.known
    assert "emitted -" not in late.value.known
    await bus.command("DEL", bus.key("request:r"))


async def test_a_reply_is_returned_though_the_group_cannot_be_left(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply is there: that the server goes away just then is no failure of the request."""
    async with listening(bus, [work]):
        reply_stream = "work:replies"
        await bus.emit_command(
            STREAM,
            event_type="work:do",
            payload={},
            request_id="r",
            correlation_id="c",
            reply_stream=reply_stream,
        )

        async def leave(*_args: Any, **_options: Any) -> None:
            raise ServerUnavailable("somewhere", "gone")

        monkeypatch.setattr(type(bus.session().streams), "leave", leave)
        reply = await bus.read_replies(reply_stream, "c", "r", 10)
    assert reply["status"] == "completed"


async def test_a_late_renewal_does_not_cancel_what_comes_after_the_handler(bus: Bus) -> None:
    """The keeper's thread had the claim in its hands when it was let go."""
    command: Command = Command({}, "r", "c", "", "work:do", stream=STREAM, entry_id="1-1")
    options = ClaimOptions(
        "g", "me", lease_s=1, max_deliveries=5, progress_interval_s=0, retention=Retention()
    )

    class Keeper:
        def keep(self, _claim: Leased) -> None: ...

        def drop(self, _token: str) -> None: ...

    delivery = Delivery(STREAM, "1-1", {})
    claim = Claim(bus.session(), command, delivery, options, Keeper())  # type: ignore[arg-type]

    async def handle() -> str:
        claim.keep()
        claim.let_go()
        await asyncio.to_thread(claim.on_lost)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "done"

    assert await asyncio.create_task(handle()) == "done"
    assert claim.ending is None
