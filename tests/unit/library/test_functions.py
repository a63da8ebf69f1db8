"""The server's functions: the transitions that they allow, refuse and repeat.

These tests read raw records and streams: they prove what the functions write.
"""

import asyncio
from typing import Any

import pytest

from sagastream import Bus, Retention
from sagastream._codec.payload import encode_payload
from sagastream._functions.answers import (
    AdoptAnswer,
    BeginAnswer,
    Busy,
    Claimed,
    EmitAnswer,
    Expired,
    FinishAnswer,
    JournalAnswer,
    ProgressAnswer,
)
from sagastream._functions.library import LIBRARY
from sagastream._functions.stream_answers import SweepAnswer
from sagastream.errors import ServerError
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.polling import eventually
from tests.records import record_of

GROUP = "g"
UNTRACED = ("", "", "")
_MINUTE = Retention(result_s=60, remember_s=60)
_PLAIN = ("event_type", "work:do", "payload", "{}")


class Requests:
    """The transitions of one request; callers give only what differs between claims."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.functions = bus, bus.session().requests
        self.record, self.stream = bus.key("request:r1"), bus.key("work:commands")
        self.replies = bus.key("replies:me")

    async def emit(
        self, payload: dict[str, Any], *, replies: list[str] | None = None
    ) -> EmitAnswer:
        answer = await self.functions.emit(
            self.record,
            self.stream,
            ("c1", "r1", "", "work:do", encode_payload(payload), "", "1", *UNTRACED),
            reply_streams=[self.replies] if replies is None else replies,
        )
        assert isinstance(answer, EmitAnswer)
        return answer

    async def begin(self, entry_id: str, *, token: str, lease_ms: int = 10_000) -> BeginAnswer:
        return await self.functions.begin(
            self.record,
            self.stream,
            group=GROUP,
            entry_id=entry_id,
            consumer=f"consumer-{token}",
            token=token,
            lease_ms=lease_ms,
            retention=_MINUTE,
            max_deliveries=3,
            trace=UNTRACED,
        )

    async def adopt(self, entry_id: str) -> AdoptAnswer:
        ids = {"correlation_id": "c1", "request_id": "r1"}
        return await self.functions.adopt(
            self.record,
            self.stream,
            dict(zip(_PLAIN[::2], _PLAIN[1::2], strict=True)) | ids,
            group=GROUP,
            entry_id=entry_id,
            retention=_MINUTE,
            reply_streams=[self.replies],
        )

    async def finish(self, entry_id: str, *, token: str, status: str = "completed") -> FinishAnswer:
        return await self.functions.finish(
            self.record,
            self.stream,
            status,
            f'{{"by":"{token}"}}',
            group=GROUP,
            entry_id=entry_id,
            token=token,
            retention=_MINUTE,
            trace=UNTRACED,
        )

    async def progress(self, *, token: str, seq: int) -> ProgressAnswer:
        return await self.functions.progress(
            self.record, self.stream, f'{{"n":{seq}}}', token=token, seq=seq, trace=UNTRACED
        )

    async def stages(self, stream: str | None = None) -> list[str]:
        entries = await self.call("XRANGE", stream or self.replies, "-", "+")
        return [fields[b"status"].decode() for _, fields in entries]

    async def pending(self) -> int:
        return int((await self.call("XPENDING", self.stream, GROUP))["pending"])

    async def deliver(self) -> str:
        answer = await self.call(
            "XREADGROUP", "GROUP", GROUP, "reader", "COUNT", 1, "STREAMS", self.stream, ">"
        )
        return str(answer[0][1][0][0].decode())

    async def call(self, *args: Any) -> Any:
        return await self.bus.command(*args)


def _kind(answer: BeginAnswer) -> str:
    return type(answer).__name__.lower()


@pytest.fixture
async def requests(bus: Bus) -> Requests:
    """The transitions of one request, and a stream with a group."""
    made = Requests(bus)
    await made.call("XGROUP", "CREATE", made.stream, GROUP, "0", "MKSTREAM")
    return made


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_emitting_twice_writes_one_entry(requests: Requests) -> None:
    """A repeated emit, as after a lost answer, returns the same entry."""
    first = await requests.emit({})
    again = await requests.emit({})
    assert (first.outcome, again.outcome) == ("new", "known")
    assert first.entry_id == again.entry_id
    assert await requests.call("XLEN", requests.stream) == 1


@pytest.mark.invariant(1)
async def test_the_same_id_with_another_payload_is_a_conflict(requests: Requests) -> None:
    """An id is the identity of one request."""
    await requests.emit({})
    assert (await requests.emit({"other": 1})).outcome == "conflict"
    assert await requests.call("XLEN", requests.stream) == 1


@pytest.mark.invariant(3)
@pytest.mark.invariant(5)
async def test_begin_is_busy_while_a_lease_is_current(requests: Requests) -> None:
    """There is no second claim while the lease of the first one is current."""
    entry = (await requests.emit({})).entry_id
    assert _kind(await requests.begin(entry, token="a")) == "claimed"
    busy = await requests.begin(entry, token="b")
    assert isinstance(busy, Busy)
    assert busy.consumer == "consumer-a"


@pytest.mark.invariant(3)
async def test_begin_with_the_same_token_returns_the_same(requests: Requests) -> None:
    """A repeated begin, as after a lost answer, raises no epoch and writes no second `start`."""
    entry = (await requests.emit({})).entry_id
    first = await requests.begin(entry, token="a")
    again = await requests.begin(entry, token="a")
    assert isinstance(first, Claimed)
    assert isinstance(again, Claimed)
    assert (first.epoch, first.attempt) == (again.epoch, 1)
    assert await requests.stages() == ["start"]


@pytest.mark.invariant(3)
async def test_a_lapsed_lease_is_claimed_with_a_higher_epoch(requests: Requests) -> None:
    """Each claim raises the epoch."""
    entry = (await requests.emit({})).entry_id
    first = await requests.begin(entry, token="a", lease_ms=0)
    second = await requests.begin(entry, token="b")
    assert isinstance(first, Claimed)
    assert isinstance(second, Claimed)
    assert second.epoch > first.epoch
    assert second.attempt == 2


@pytest.mark.invariant(3)
async def test_an_earlier_claim_writes_nothing(requests: Requests) -> None:
    """Progress and result of an earlier claim are refused, and its entry stays pending."""
    await requests.emit({})
    entry = await requests.deliver()
    await requests.begin(entry, token="a", lease_ms=0)
    await requests.begin(entry, token="b")
    assert (await requests.progress(token="a", seq=1)).is_stale
    assert (await requests.finish(entry, token="a")).outcome == "stale"
    assert await requests.stages() == ["start", "start"]
    assert await requests.pending() == 1


@pytest.mark.invariant(3)
@pytest.mark.invariant(4)
async def test_finish_replies_and_acks_once(requests: Requests) -> None:
    """A repeated finish writes no second terminal reply."""
    await requests.emit({})
    entry = await requests.deliver()
    await requests.begin(entry, token="a")
    assert (await requests.finish(entry, token="a")).outcome == "ok"
    assert (await requests.finish(entry, token="a")).outcome == "ok"
    assert await requests.stages() == ["start", "completed"]
    assert await requests.pending() == 0


@pytest.mark.invariant(3)
async def test_the_first_outcome_is_final(requests: Requests) -> None:
    """A completed request cannot fail later, not even by the same claim."""
    entry = (await requests.emit({})).entry_id
    await requests.begin(entry, token="a")
    await requests.finish(entry, token="a")
    assert (await requests.finish(entry, token="a", status="failed")).outcome == "stale"
    assert _kind(await requests.begin(entry, token="b")) == "done"
    assert await requests.stages() == ["start", "completed"]


@pytest.mark.invariant(6)
async def test_a_request_that_kills_its_handlers_is_one_dead_letter(requests: Requests) -> None:
    """After three lost handlers the fourth claim writes a letter and a reply, and acks."""
    await requests.emit({})
    entry = await requests.deliver()
    for token in "abc":
        assert _kind(await requests.begin(entry, token=token, lease_ms=0)) == "claimed"
    assert _kind(await requests.begin(entry, token="d")) == "done"
    assert _kind(await requests.begin(entry, token="e")) == "done"
    ((_, letter),) = await requests.call("XRANGE", requests.bus.key("work:commands:dead"), "-", "+")
    assert letter[b"request_id"] == b"r1"
    assert b"lost 3 times" in letter[b"dead_reason"]
    assert await requests.stages() == ["start", "start", "start", "failed"]
    assert await requests.pending() == 0


@pytest.mark.invariant(4)
@pytest.mark.invariant(6)
async def test_a_release_does_not_count_as_a_lost_handler(requests: Requests) -> None:
    """After more releases than it may lose handlers, a request is not a dead letter."""
    await requests.emit({})
    entry = await requests.deliver()
    for token in "abcdefgh":
        assert _kind(await requests.begin(entry, token=token)) == "claimed"
        released = await requests.functions.release(
            requests.record,
            requests.stream,
            group=GROUP,
            entry_id=entry,
            consumer=f"consumer-{token}",
            token=token,
            idle_ms=0,
        )
        assert released.outcome == "ok"
        assert (await requests.finish(entry, token=token)).outcome == "stale"
    assert await requests.pending() == 1


@pytest.mark.invariant(5)
async def test_only_the_current_claim_is_renewed(requests: Requests) -> None:
    """A late renewal of an earlier claim does not change the lease."""
    await requests.emit({})
    entry = await requests.deliver()
    await requests.begin(entry, token="a", lease_ms=0)
    await requests.begin(entry, token="b")
    before = (await record_of(requests.bus, "r1"))["lease_until"]

    async def renew(token: str) -> list[bytes]:
        answer: list[bytes] = await requests.call(
            *("FCALL", f"{LIBRARY}_renew", 2, requests.record, requests.stream),
            *(60_000, GROUP, f"consumer-{token}", token, entry),
        )
        return answer

    assert await renew("a") == [b"0"]
    assert (await record_of(requests.bus, "r1"))["lease_until"] == before
    assert await renew("b") == [b"1"]
    assert (await record_of(requests.bus, "r1"))["lease_until"] > before


@pytest.mark.invariant(3)
async def test_repeated_progress_is_written_once(requests: Requests) -> None:
    """Progress is numbered; a number that is not higher than the last one is not written."""
    entry = (await requests.emit({})).entry_id
    await requests.begin(entry, token="a")
    for seq in (1, 1, 2, 1):
        assert not (await requests.progress(token="a", seq=seq)).is_stale
    assert await requests.stages() == ["start", "progress", "progress"]


@pytest.mark.invariant(2)
async def test_a_second_requester_gets_the_same_reply(requests: Requests) -> None:
    """A second emit adds its reply stream; finish writes to all of them."""
    entry = (await requests.emit({})).entry_id
    await requests.begin(entry, token="a")
    other = requests.bus.key("replies:other")
    await requests.emit({}, replies=[other])
    await requests.finish(entry, token="a")
    assert await requests.stages(other) == ["completed"]
    assert await requests.stages() == ["start", "completed"]


@pytest.mark.invariant(2)
async def test_a_requester_after_the_end_gets_the_reply(requests: Requests) -> None:
    """The record keeps the reply; a later emit writes it to its reply stream."""
    entry = (await requests.emit({})).entry_id
    await requests.begin(entry, token="a")
    await requests.finish(entry, token="a")
    late = requests.bus.key("replies:late")
    assert (await requests.emit({}, replies=[late])).outcome == "known"
    assert await requests.stages(late) == ["completed"]


async def test_batched_calls_fail_separately(requests: Requests) -> None:
    """Calls of one tick are one command; a key of a wrong type fails only its own request."""
    call, key = requests.call, requests.bus.key
    await call("SET", key("replies:wrong"), "x")
    await call("PING")
    await requests.bus.ping()  # the server has the functions from now on
    before = (await call("INFO", "commandstats")).get("cmdstat_fcall", {"calls": 0})["calls"]

    def emit(number: int, replies: str) -> "asyncio.Future[EmitAnswer | Expired]":
        return requests.functions.emit(
            key(f"request:r{number}"),
            requests.stream,
            ("c1", f"r{number}", "", "work:do", "{}", "", "1", *UNTRACED),
            reply_streams=[key(replies)],
        )

    ping = asyncio.create_task(call("PING"))
    await asyncio.sleep(0)  # sends PING: calls are batched while another one waits
    sent = [emit(n, "replies:wrong" if n == 1 else "replies:me") for n in range(3)]
    answers = await asyncio.gather(*sent, return_exceptions=True)
    await ping
    after = (await call("INFO", "commandstats"))["cmdstat_fcall"]["calls"]
    assert after - before == 1
    assert [getattr(answer, "outcome", type(answer)) for answer in answers] == [
        "new",
        ServerError,
        "new",
    ]
    assert await call("XLEN", requests.stream) == 2
    assert await call("EXISTS", key("request:r1")) == 0
    await call("DEL", key("replies:wrong"))


async def test_end_streams_get_only_the_terminal_stage(requests: Requests) -> None:
    """A stream that also joins as a reply stream gets each stage from then on."""
    own, other = requests.bus.key("replies:end"), requests.bus.key("replies:other")

    async def emit(replies: list[str], ends: list[str]) -> None:
        await requests.functions.emit(
            requests.record,
            requests.stream,
            ("c1", "r1", "", "work:do", "{}", "", "1", *UNTRACED),
            reply_streams=replies,
            end_streams=ends,
        )

    await emit([], [own, other])
    await emit([other], [])
    entry = await requests.deliver()
    await requests.begin(entry, token="a")
    await requests.finish(entry, token="a")
    assert await requests.stages(own) == ["completed"]
    assert await requests.stages(other) == ["start", "completed"]


async def test_adopting_an_entry_of_a_cancelled_request_ends_it(requests: Requests) -> None:
    """When the cancel came before the plain entry, adopt writes `cancelled` and acks."""
    await requests.functions.cancel(requests.record, trace=UNTRACED)
    await requests.call("XADD", requests.stream, "*", *_PLAIN)
    entry = await requests.deliver()
    assert (await requests.adopt(entry)).outcome == "done"
    assert await requests.stages() == ["cancelled"]
    assert await requests.pending() == 0


@pytest.mark.invariant(2)
async def test_a_plain_entry_is_adopted(requests: Requests) -> None:
    """An entry added with XADD gets a record, and its request is fenced like any other."""
    entry = (await requests.call("XADD", requests.stream, "*", *_PLAIN)).decode()
    assert _kind(await requests.begin(entry, token="a")) == "unknown"
    assert (await requests.adopt(entry)).outcome == "adopted"
    assert _kind(await requests.begin(entry, token="a")) == "claimed"
    assert _kind(await requests.begin(entry, token="b")) == "busy"


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_a_second_entry_of_a_request_is_acked_and_not_run(requests: Requests) -> None:
    """Two entries with one id are one request."""
    await requests.emit({})
    first = await requests.deliver()
    await requests.call("XADD", requests.stream, "*", *_PLAIN)
    second = await requests.deliver()
    await requests.begin(first, token="a")
    assert _kind(await requests.begin(second, token="b")) == "unknown"
    assert (await requests.adopt(second)).outcome == "done"
    assert await requests.pending() == 1


@pytest.mark.invariant(7)
async def test_a_lone_record_expires_after_its_end_and_not_before(requests: Requests) -> None:
    """The record gets its TTL with the terminal stage."""
    entry = (await requests.emit({})).entry_id
    await requests.begin(entry, token="a")
    assert await requests.call("PTTL", requests.record) == -1
    await requests.finish(entry, token="a")
    assert 0 < await requests.call("PTTL", requests.record) <= 60_000
    assert await requests.call("PTTL", requests.replies) > 0


@pytest.mark.invariant(4)
async def test_a_key_of_another_type_is_refused_before_any_write(requests: Requests) -> None:
    """A refused function changes nothing: the request still runs and its entry is pending."""
    await requests.emit({})
    entry = await requests.deliver()
    await requests.begin(entry, token="a")
    await requests.call("DEL", requests.replies)
    await requests.call("SET", requests.replies, "x")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await requests.finish(entry, token="a")
    assert await requests.pending() == 1
    assert (await record_of(requests.bus, "r1"))["status"] == "running"
    await requests.call("DEL", requests.replies)


@pytest.mark.invariant(12)
async def test_a_lost_library_is_loaded_again(requests: Requests) -> None:
    """The next call loads the functions into a server that has lost them."""
    await requests.emit({})
    await requests.call("FUNCTION", "DELETE", LIBRARY)
    assert (await requests.emit({})).outcome == "known"


@pytest.mark.blocking
@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
@pytest.mark.invariant(12)
async def test_a_connection_lost_while_the_library_is_loaded_is_a_delay(
    requests: Requests, server: EmbeddedServer, namespace: str, fault: Fault
) -> None:
    """The call succeeds when the connection is back."""
    await requests.emit({})
    await requests.call("FUNCTION", "DELETE", LIBRARY)
    lost: list[int] = []

    def plan(number: int, command: tuple[bytes, ...]) -> Fault:
        if not lost and command[:2] == (b"FUNCTION", b"LOAD"):
            lost.append(number)
            return fault
        return Fault.NONE

    with FaultProxy(server.url, plan) as proxy:
        async with Bus(proxy.url, namespace=namespace) as bus:
            await bus.emit_command("work:commands", event_type="work:do", payload={})
    assert lost


@pytest.mark.invariant(9)
async def test_the_journal_moves_by_compare_and_set(requests: Requests) -> None:
    """Of two writers that read one version, one changes the journal."""
    key = requests.bus.key("saga:s")

    async def put(journal: str) -> JournalAnswer:
        return await requests.bus.session().sagas.journal(
            key,
            f"{key}:journal",
            [requests.bus.key(f"sagas:trip:{state}") for state in ("open", "ended", "stuck")],
            [],
            saga_id="s",
            version=0,
            journal=journal,
            state="open",
            delay_ms=1000,
            moves_ms=1000,
            retention=Retention(),
            fields={"status": "running"},
        )

    assert [(await put(text)).is_written for text in ("{}", '{"x":1}')] == [True, False]
    assert await requests.call("HGET", key, "journal") == b"{}"
    assert await requests.call("XLEN", f"{key}:journal") == 1
    assert await requests.call("PTTL", key) == -1


@pytest.mark.invariant(2)
async def test_a_command_that_was_acked_elsewhere_is_not_forwarded(requests: Requests) -> None:
    """Its entry stays the only one, although a live listener could handle a second one."""
    await requests.emit({})
    entry = await requests.deliver()
    streams, key = requests.bus.session().streams, requests.bus.key
    announcements = key("listeners:work:commands")
    await streams.announce([(announcements, "work:do\nother")], ttl_ms=60_000)
    await requests.call("XACK", requests.stream, GROUP, entry)
    answer = await streams.forward(
        requests.stream,
        announcements,
        requests.record,
        group=GROUP,
        entry_id=entry,
        event_type="work:do",
        fields=_PLAIN,
    )
    assert answer.is_forwarded
    found = await requests.call("XRANGE", requests.stream, "-", "+")
    assert [entry_id.decode() for entry_id, _ in found] == [entry]


async def _sweep(
    requests: Requests,
    consumer: str,
    *,
    lease_ms: int,
    count: int = 10,
    keep: int = 10_000,
    keep_bytes: int = 2**26,
) -> SweepAnswer:
    return await requests.bus.session().streams.sweep(
        requests.bus.key("sweeper:g:work:commands"),
        requests.stream,
        requests.bus.key("remembered"),
        consumer=consumer,
        group=GROUP,
        lease_ms=lease_ms,
        idle_ms=lease_ms,
        count=count,
        keep=keep,
        keep_bytes=keep_bytes,
    )


@pytest.mark.invariant(5)
async def test_one_sweeper_has_a_stream_at_a_time(requests: Requests) -> None:
    """A second sweeper is refused while the first one has its lease."""
    assert not (await _sweep(requests, "first", lease_ms=60_000)).is_busy
    assert (await _sweep(requests, "second", lease_ms=60_000)).is_busy


@pytest.mark.invariant(4)
async def test_a_consumer_with_pending_entries_is_not_deleted(requests: Requests) -> None:
    """The sweep claims one of its two entries; the other would be lost with the consumer."""
    lease_ms = 20
    for _ in range(2):
        await requests.call("XADD", requests.stream, "*", *_PLAIN)
        await requests.deliver()

    async def is_idle() -> bool:
        (reader,) = await requests.call("XINFO", "CONSUMERS", requests.stream, GROUP)
        return bool(reader["idle"] > 10 * lease_ms)

    await eventually(is_idle, within_s=10, why="the consumer was idle for ten leases")
    swept = await _sweep(requests, "sweeper", lease_ms=lease_ms, count=1)
    assert len(swept.entries) == 1
    assert await requests.pending() == 2


@pytest.mark.invariant(10)
async def test_a_due_saga_goes_to_one_runner(requests: Requests) -> None:
    """The first runner that asks gets it; it is not due for the next one."""
    key, sagas = requests.bus.key("sagas:trip:open"), requests.bus.session().sagas
    await requests.call("ZADD", key, 0, "s")
    assert (await sagas.take_due(key, limit=10, delay_ms=60_000)).saga_ids == ("s",)
    assert (await sagas.take_due(key, limit=10, delay_ms=60_000)).saga_ids == ()
    await requests.call("DEL", key)


@pytest.mark.invariant(9)
async def test_a_heartbeat_does_not_reopen_a_saga(requests: Requests) -> None:
    """A saga that has ended meanwhile does not become open again."""
    key = requests.bus.key("sagas:trip:open")
    await requests.bus.session().sagas.heartbeat(key, ["ended"], delay_ms=60_000)
    assert await requests.call("ZCARD", key) == 0


@pytest.mark.invariant(7)
async def test_only_finished_commands_are_trimmed(requests: Requests) -> None:
    """A sweep trims behind the last commands, but no pending and no undelivered one."""
    call, stream = requests.call, requests.stream

    async def sweep() -> int:
        await _sweep(requests, "sweeper", lease_ms=60_000, count=1, keep=1000)
        return int(await call("XLEN", stream))

    ids = [await call("XADD", stream, "*", "n", number) for number in range(3000)]
    assert await sweep() == 3000, "nothing was delivered yet"
    await call("XREADGROUP", "GROUP", GROUP, "reader", "COUNT", 2900, "STREAMS", stream, ">")
    await call("XACK", stream, GROUP, *ids[500:2900])
    left = await sweep()
    assert await call("XRANGE", stream, ids[0], ids[0]), "it is pending"
    assert left == 3000
    await call("XACK", stream, GROUP, *ids[:500])
    assert 1000 <= await sweep() < 1200
    assert await call("XRANGE", stream, ids[2999], ids[2999]), "it was not delivered"


@pytest.mark.invariant(7)
async def test_finished_commands_are_trimmed_by_bytes_too(requests: Requests) -> None:
    """Large commands are trimmed before there are many of them; a pending one stays."""
    call, stream = requests.call, requests.stream
    ids = [await call("XADD", stream, "*", "payload", "x" * 10_000) for _ in range(300)]
    await call("XREADGROUP", "GROUP", GROUP, "reader", "COUNT", 300, "STREAMS", stream, ">")
    await call("XACK", stream, GROUP, *ids)
    await _sweep(requests, "sweeper", lease_ms=60_000, keep_bytes=1_000_000)
    assert 50 <= await call("XLEN", stream) <= 120
    assert await call("MEMORY", "USAGE", stream) <= 1_300_000
