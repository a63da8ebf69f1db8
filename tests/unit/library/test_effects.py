"""Effect policies: an effect takes place once, although its handler may run twice."""

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
from tests.listeners import listening
from tests.plain_client import call

STREAM = "account:commands"


@pytest.mark.invariant(8)
async def test_concurrent_atomic_writes_lose_no_update(bus: Bus) -> None:
    """Forty concurrent increments add up to 40: a handler that read an old value runs again."""
    runs = []

    @multi_stage_reply(stream=STREAM, event_type="account:add", effect="atomic")
    async def add(command: Command, _progress: Progress) -> Atomic:
        runs.append(command.request_id)
        raw = await call(bus, "HGET", "accounts", "me")
        read = raw.decode() if raw else None
        total = int(read or 0) + 1
        return Atomic({"total": total}, (Write("accounts", str(total), read, field="me"),))

    async with listening(bus, [add], concurrency=4):
        replies = await asyncio.gather(
            *(bus.request_and_reply(STREAM, "account:add", {}) for _ in range(40))
        )
    assert sorted(reply["payload"]["total"] for reply in replies) == list(range(1, 41))
    assert await call(bus, "HGET", "accounts", "me") == b"40"
    assert len(runs) >= 40
    await call(bus, "DEL", "accounts")


@pytest.mark.invariant(8)
async def test_a_mismatch_of_one_write_writes_none(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All values are checked before the first write; a lasting mismatch is a WriteConflict."""
    monkeypatch.setattr("sagastream._worker.dispatcher._MAX_RUNS", 5)

    @multi_stage_reply(stream=STREAM, event_type="account:move", effect="atomic")
    async def move(_command: Command, _progress: Progress) -> Atomic:
        return Atomic({}, (Write("from", "0", None), Write("to", "9", "8")))

    async with listening(bus, [move]):
        with pytest.raises(RequestFailed, match="changed by another writer") as caught:
            await bus.request_and_reply(STREAM, "account:move", {})
    assert caught.value.error_type == "WriteConflict"
    assert await call(bus, "EXISTS", "from") == 0


async def test_atomic_writes_can_delete(bus: Bus) -> None:
    """A new value of None deletes the key or field."""
    await call(bus, "SET", "plain", "1")
    await call(bus, "HSET", "hash", "a", "1", "b", "2")

    @multi_stage_reply(stream=STREAM, event_type="account:clear", effect="atomic")
    async def clear(_command: Command, _progress: Progress) -> Atomic:
        return Atomic({}, (Write("plain", None, "1"), Write("hash", None, "1", field="a")))

    async with listening(bus, [clear]):
        await bus.request_and_reply(STREAM, "account:clear", {})
    assert await call(bus, "EXISTS", "plain") == 0
    assert await call(bus, "HGETALL", "hash") == {b"b": b"2"}
    await call(bus, "DEL", "hash")


@pytest.mark.invariant(8)
async def test_a_second_claim_is_reconciled_before_it_runs(bus: Bus) -> None:
    """`reconcile` returns the result of the first claim, or the handler runs again."""
    paid: list[int] = []
    begun = asyncio.Event()

    async def reconcile(command: Command) -> dict[str, Any] | None:
        return {"paid": "before"} if paid and command.payload["done"] else None

    @multi_stage_reply(
        stream=STREAM, event_type="account:pay", effect="at_most_once", reconcile=reconcile
    )
    async def pay(command: Command, _progress: Progress) -> dict[str, Any]:
        paid.append(command.attempt)
        begun.set()
        if command.attempt == 1:
            await asyncio.Event().wait()
        return {"paid": command.attempt}

    for done, expected, epochs in ((True, "before", [1]), (False, 2, [1, 2])):
        paid.clear()
        begun.clear()
        reply = asyncio.create_task(bus.request_and_reply(STREAM, "account:pay", {"done": done}))
        async with listening(bus, [pay], drain_s=0.05):
            await begun.wait()
        async with listening(bus, [pay], lease_s=0.2):
            assert (await asyncio.wait_for(reply, 10))["payload"] == {"paid": expected}
        assert paid == epochs


async def test_an_atomic_handler_must_return_its_writes(bus: Bus) -> None:
    """A plain dict is refused: its effect would not be checked."""

    @multi_stage_reply(stream=STREAM, event_type="account:bad", effect="atomic")
    async def bad(_command: Command, _progress: Progress) -> Any:
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
def test_an_invalid_policy_is_refused_where_it_is_declared(
    options: dict[str, Any], reason: str
) -> None:
    """An invalid declaration is an error at import."""
    with pytest.raises(RegistrationError, match=reason):
        multi_stage_reply(stream=STREAM, event_type="account:x", **options)


async def test_an_effect_may_have_thousands_of_writes(bus: Bus) -> None:
    """More writes are possible than fit on the stack of the server's Lua interpreter."""
    count = 3000

    @multi_stage_reply(stream=STREAM, event_type="account:open", effect="atomic")
    async def open_all(_command: Command, _progress: Progress) -> Atomic:
        return Atomic({}, tuple(Write("many", "1", None, field=f"f{n}") for n in range(count)))

    async with listening(bus, [open_all]):
        await bus.request_and_reply(STREAM, "account:open", {})
    assert await call(bus, "HLEN", "many") == count
    await call(bus, "DEL", "many")
