"""Effects that stay single though handlers run twice."""

import asyncio
from typing import Any

import pytest

from sagastream import (
    Atomic,
    Bus,
    Command,
    Progress,
    RegistrationError,
    RequestFailed,
    Write,
    multi_stage_reply,
)
from tests.conftest import listening

STREAM = "account:commands"


async def _call(bus: Bus, command: str, name: str, *args: Any) -> Any:
    return await bus.command(command, bus.key(name), *args)


@pytest.mark.invariant(8)
async def test_atomic_writes_come_with_the_reply_and_race_safely(bus: Bus) -> None:
    """Forty increments at once are forty: who read an old value runs again."""
    runs = []

    @multi_stage_reply(stream=STREAM, event_type="account:add", effect="atomic")
    async def add(command: Command, _progress: Progress) -> Atomic:
        runs.append(command.request_id)
        raw = await _call(bus, "HGET", "accounts", "me")
        read = raw.decode() if raw else None
        total = int(read or 0) + 1
        return Atomic({"total": total}, (Write("accounts", str(total), read, field="me"),))

    async with listening(bus, [add], concurrency=4):
        replies = await asyncio.gather(
            *(bus.request_and_reply(STREAM, "account:add", {}) for _ in range(40))
        )
    assert sorted(reply["payload"]["total"] for reply in replies) == list(range(1, 41))
    assert await _call(bus, "HGET", "accounts", "me") == b"40"
    assert len(runs) >= 40
    await _call(bus, "DEL", "accounts")


@pytest.mark.invariant(8)
async def test_a_mismatch_of_one_write_writes_none(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is checked before the first write; what never fits fails by name."""
    monkeypatch.setattr("sagastream._worker.dispatcher._MAX_RUNS", 5)

    @multi_stage_reply(stream=STREAM, event_type="account:move", effect="atomic")
    async def move(_command: Command, _progress: Progress) -> Atomic:
        return Atomic({}, (Write("from", "0", None), Write("to", "9", "8")))

    async with listening(bus, [move]):
        with pytest.raises(RequestFailed, match="changed by another writer") as caught:
            await bus.request_and_reply(STREAM, "account:move", {})
    assert caught.value.error_type == "WriteConflict"
    assert await _call(bus, "EXISTS", "from") == 0


async def test_atomic_writes_can_delete(bus: Bus) -> None:
    """A value of None takes the key or field away."""
    await _call(bus, "SET", "plain", "1")
    await _call(bus, "HSET", "hash", "a", "1", "b", "2")

    @multi_stage_reply(stream=STREAM, event_type="account:clear", effect="atomic")
    async def clear(_command: Command, _progress: Progress) -> Atomic:
        return Atomic({}, (Write("plain", None, "1"), Write("hash", None, "1", field="a")))

    async with listening(bus, [clear]):
        await bus.request_and_reply(STREAM, "account:clear", {})
    assert await _call(bus, "EXISTS", "plain") == 0
    assert await _call(bus, "HGETALL", "hash") == {b"b": b"2"}
    await _call(bus, "DEL", "hash")


@pytest.mark.invariant(8)
async def test_a_second_claim_is_reconciled_before_it_runs(bus: Bus) -> None:
    """What the first claim did is found out, not done again."""
    paid: list[int] = []
    begun = asyncio.Event()

    async def reconcile(command: Command) -> dict[str, Any] | None:
        return {"paid": "before"} if paid and command.payload["done"] else None

    @multi_stage_reply(
        stream=STREAM, event_type="account:pay", effect="at_most_once", reconcile=reconcile
    )
    async def pay(command: Command, _progress: Progress) -> dict[str, Any]:
        paid.append(command.epoch)
        begun.set()
        if command.epoch == 1:
            await asyncio.Event().wait()
        return {"paid": command.epoch}

    for done, expected, epochs in ((True, "before", [1]), (False, 2, [1, 2])):
        paid.clear()
        begun.clear()
        asked = asyncio.create_task(bus.request_and_reply(STREAM, "account:pay", {"done": done}))
        async with listening(bus, [pay], drain_s=0.05):
            await begun.wait()
        async with listening(bus, [pay], lease_s=0.2):
            assert (await asyncio.wait_for(asked, 10))["payload"] == {"paid": expected}
        assert paid == epochs


async def test_an_atomic_handler_must_return_its_writes(bus: Bus) -> None:
    """A plain dict would be an effect that nobody guards."""

    @multi_stage_reply(stream=STREAM, event_type="account:bad", effect="atomic")
    async def bad(_command: Command, _progress: Progress) -> dict[str, Any]:
        return {}

    async with listening(bus, [bad]):
        with pytest.raises(RequestFailed, match="must be Atomic"):
            await bus.request_and_reply(STREAM, "account:bad", {})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"effect": "sometimes"}, "one of idempotent"),
        ({"effect": "at_most_once"}, "give both or neither"),
        ({"reconcile": lambda command: None}, "give both or neither"),
    ],
)
@pytest.mark.invariant(8)
def test_a_policy_that_cannot_hold_is_refused_where_it_is_declared(
    options: dict[str, Any], reason: str
) -> None:
    """A wrong declaration shows at import."""
    with pytest.raises(RegistrationError, match=reason):
        multi_stage_reply(stream=STREAM, event_type="account:x", **options)


async def test_an_effect_may_have_thousands_of_writes(bus: Bus) -> None:
    """As many as one likes: more than fit on the stack of the server's interpreter at once."""
    count = 3000

    @multi_stage_reply(stream=STREAM, event_type="account:open", effect="atomic")
    async def open_all(_command: Command, _progress: Progress) -> Atomic:
        return Atomic({}, tuple(Write("many", "1", None, field=f"f{n}") for n in range(count)))

    async with listening(bus, [open_all]):
        await bus.request_and_reply(STREAM, "account:open", {})
    assert await _call(bus, "HLEN", "many") == count
    await _call(bus, "DEL", "many")
