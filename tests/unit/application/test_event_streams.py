"""The event streams of missions: many clients, slow ones, lost servers, and limits."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from app.config import choose_settings, get_settings
from app.missions.mission_saga import mission_runner
from app.redis_utils import get_bus
from app.web import mission_feed, mission_history
from app.web.api import make_app
from app.web.event_stream import MissionEvents
from app.web.limits import StreamLimits, TooManyStreams
from app.web.mission_history import START, position_of
from sagastream import Bus
from sagastream.testing import EmbeddedServer
from sagastream.web import impatient
from sagastream.web.impatient import ImpatientProtocol
from sagastream.web.rate_limits import client_of
from tests.plain_client import add_entry, call
from tests.polling import eventually

pytestmark = pytest.mark.blocking

_END: tuple[str, dict[str, Any]] = ("end", {})
_WITHIN_S = 20.0


async def _start(saga_id: str = "m") -> None:
    given = {"mission": saga_id, "area": "room", "robots": 1, "seed": 0, "known_poses": True}
    await mission_runner().start(given, saga_id=saga_id)


async def _frame(bus: Bus, number: int, saga_id: str = "m") -> None:
    stream = get_settings().recording_stream(saga_id)
    await add_entry(bus, stream, {"n": number})


def _decoded(chunks: list[bytes]) -> list[tuple[str, str, dict[str, Any]]]:
    """Id, kind and data of each event."""
    found = []
    for block in b"".join(chunks).decode().replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


async def _all(
    events: MissionEvents, after: str | None = None, saga_id: str = "m"
) -> list[tuple[str, str, dict[str, Any]]]:
    async with asyncio.timeout(_WITHIN_S):
        return _decoded([chunk async for chunk in events.of(saga_id, position_of(after))])


def _numbers(told: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    return [data["n"] for _, kind, data in told if kind == "frame"]


async def _clients(bus: Bus, which: str = "connected_clients") -> int:
    return int((await bus.command("INFO", "clients"))[which])


@pytest.fixture
async def events(app_bus: Bus) -> AsyncIterator[MissionEvents]:
    """The events of one process, which end with the test."""
    made = MissionEvents()
    yield made
    await made.close()


async def test_a_thousand_clients_of_a_mission_cost_one_blocking_read(
    app_bus: Bus, events: MissionEvents
) -> None:
    """They need a handful of connections, and each gets every event in order."""
    await _start()
    before = await _clients(app_bus)
    watching = [asyncio.create_task(_all(events)) for _ in range(1000)]
    most = 0
    for number in range(20):
        await _frame(app_bus, number)
        most = max(most, await _clients(app_bus))
    await mission_runner().compensate("m", "enough")
    told = await asyncio.gather(*watching)
    assert all(each == told[0] for each in told)
    assert _numbers(told[0]) == [str(number) for number in range(20)]
    assert told[0][-1][1:] == _END
    assert most <= before + 3


async def test_a_client_that_comes_late_gets_everything_in_order(
    app_bus: Bus, events: MissionEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start, or after any event, also if the feed keeps but a few of them."""
    monkeypatch.setattr(mission_feed, "_WINDOW_EVENTS", 3)
    monkeypatch.setattr(mission_history, "_BATCH", 4)
    await _start()
    first = asyncio.create_task(_all(events))
    late = []
    for number in range(40):
        await _frame(app_bus, number)
        if number % 4 == 0:
            late.append(asyncio.create_task(_all(events)))
    await mission_runner().compensate("m", "enough")
    told = await first
    assert _numbers(told) == [str(number) for number in range(40)]
    assert all(each == told for each in await asyncio.gather(*late))
    for seen in (0, 1, 20, 41, 42):
        assert await _all(events, told[seen][0]) == (told[seen + 1 :] or told[-1:])


async def test_clients_resume_while_the_mission_runs(
    app_bus: Bus, events: MissionEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reconnects after each event misses none and gets none twice."""
    monkeypatch.setattr(mission_feed, "_WINDOW_EVENTS", 3)
    await _start()

    async def write() -> None:
        for number in range(60):
            stream = ("saga:m:replies", get_settings().recording_stream("m"))[number % 2]
            await add_entry(app_bus, stream, {"n": number})
        await mission_runner().compensate("m", "enough")

    async def reconnect() -> list[tuple[str, str, dict[str, Any]]]:
        told: list[tuple[str, str, dict[str, Any]]] = []
        while not told or told[-1][1:] != _END:
            after = told[-1][0] if told else None
            async with aclosing(events.of("m", position_of(after))) as stream:
                told += _decoded([await anext(stream)])
        return told

    async with asyncio.timeout(_WITHIN_S):
        *both, _ = await asyncio.gather(_all(events), reconnect(), write())
    assert both[0] == both[1]
    for kind, first in (("stage", 0), ("frame", 1)):
        numbers = [data["n"] for _, what, data in both[0] if what == kind]
        assert numbers == [str(number) for number in range(first, 60, 2)]


async def test_a_slow_client_delays_nobody_and_keeps_little(
    app_bus: Bus, events: MissionEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it reads nothing, others get all; later it gets all, too."""
    monkeypatch.setattr(mission_feed, "_WINDOW_BYTES", 2000)
    await _start()
    async with aclosing(events.of("m", START)) as slow:
        got = [await anext(slow)]
        await _frame(app_bus, 100)
        got.append(await anext(slow))
        fast = asyncio.create_task(_all(events))
        for number in range(100):
            await _frame(app_bus, number)
        await mission_runner().compensate("m", "enough")
        told = await fast
        (feed,) = events._feeds.values()
        assert 0 < feed.size <= 2000
        got += [chunk async for chunk in slow]
    assert _decoded(got) == told
    assert len(told) == 104


async def test_the_read_ends_with_its_last_client(app_bus: Bus, events: MissionEvents) -> None:
    """One that leaves takes nothing from the others."""
    await _start()

    async def blocked() -> int:
        return await _clients(app_bus, "blocked_clients")

    before = await blocked()
    streams = [events.of("m", START) for _ in range(2)]
    for stream in streams:
        assert b"event: move" in await anext(stream)
    await streams[0].aclose()
    waiting = asyncio.ensure_future(anext(streams[1]))
    await eventually(lambda: _is(blocked, before + 1), within_s=5, why="one read blocks")
    await _frame(app_bus, 1)
    assert b"event: frame" in await asyncio.wait_for(waiting, 5)
    await streams[1].aclose()
    await eventually(lambda: not _readers(), within_s=5, why="nobody reads")
    await eventually(lambda: _is(blocked, before), within_s=5, why="no read blocks")


def _readers() -> list[str]:
    names = [str(task.get_coro()) for task in asyncio.all_tasks()]
    return [name for name in names if "MissionFeed" in name]


async def _is(read: Callable[[], Awaitable[int]], expected: int) -> bool:
    return await read() == expected


async def test_streams_end_at_shutdown(app_bus: Bus, events: MissionEvents) -> None:
    """They do not say that the mission has ended: clients resume at the next process."""
    await _start()
    watching = asyncio.create_task(_all(events))
    async with aclosing(events.of("m", START)) as stream:
        assert b"event: move" in await anext(stream)
        await events.close()
        assert [chunk async for chunk in stream] == []
    assert [kind for _, kind, _ in await watching] == ["move"]


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_server_that_comes_back_is_read_on(
    is_kept: bool, monkeypatch: pytest.MonkeyPatch, sent: list[tuple[str, str]]
) -> None:
    """Without gap or repeat; if it comes back empty, the stream ends and says no `end`."""
    monkeypatch.setattr("app.config._chosen", {})
    with EmbeddedServer(aof=is_kept, fsync="always") as server:
        choose_settings(redis_url=server.url, namespace="alone", call_timeout_s=1.0)
        events = MissionEvents()
        async with get_bus() as bus:
            await _start()
            watching = asyncio.create_task(_all(events))
            async with aclosing(events.of("m", START)) as stream:
                assert b"event: move" in await anext(stream)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.restart)
                await bus.ping()
                if is_kept:
                    await _frame(bus, 1)
                    await mission_runner().compensate("m", "enough")
                told = sorted(kind for _, kind, _ in await watching)
                assert told == (["end", "frame", "move", "move"] if is_kept else ["move"])
            await events.close()
    get_settings.cache_clear()


async def test_a_key_that_is_no_stream_hides_only_its_own_events(
    app_bus: Bus, events: MissionEvents
) -> None:
    """The stages and moves of the mission are shown."""
    await call(app_bus, "SET", get_settings().recording_stream("m"), "text", "EX", 60)
    await _start()
    watching = asyncio.create_task(_all(events))
    await add_entry(app_bus, "saga:m:replies", {"n": 1})
    await mission_runner().compensate("m", "enough")
    kinds = sorted(kind for _, kind, _ in await watching)
    assert kinds == ["end", "move", "move", "stage"]


async def test_events_that_are_no_longer_kept_are_left_out(
    app_bus: Bus, events: MissionEvents
) -> None:
    """A recording that has expired while others watch ends no later than the mission."""
    await _start()
    await _frame(app_bus, 1)
    async with aclosing(events.of("m", START)) as stream:
        await anext(stream)
        await call(app_bus, "DEL", get_settings().recording_stream("m"))
        late = asyncio.create_task(_all(events))
        await mission_runner().compensate("m", "enough")
        assert [kind for _, kind, _ in await late] == ["move", "move", "end"]


@pytest.mark.parametrize(
    "event_id", ["x", "1-1", "1-1,1-1", "1-1,1-1,1-1,1-1", f"{2**64}-0,0-0,0-0", "-1-0,0-0,0-0"]
)
def test_an_event_id_that_no_event_has_is_refused(event_id: str) -> None:
    """Also one that the server would refuse with each read."""
    with pytest.raises(ValueError, match="Last-Event-ID"):
        position_of(event_id)


async def test_an_event_id_of_the_future_gets_the_end(app_bus: Bus, events: MissionEvents) -> None:
    """A client cannot move the others forward."""
    await _start()
    future = asyncio.create_task(_all(events, f"{2**64 - 1}-0,{2**64 - 1}-0,{2**64 - 1}-0"))
    told = asyncio.create_task(_all(events))
    await _frame(app_bus, 1)
    await mission_runner().compensate("m", "enough")
    kinds = sorted(kind for _, kind, _ in await told)
    assert kinds == ["end", "frame", "move", "move"]
    assert [kind for _, kind, _ in await future] == ["end"]


# -- over HTTP ---------------------------------------------------------------------


@asynccontextmanager
async def _served(**settings: Any) -> AsyncIterator[int]:
    """The web server on a port."""
    choose_settings(**settings)
    config = uvicorn.Config(
        make_app(get_settings()), port=0, http=ImpatientProtocol, log_config=None
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


def _stream(stack: AsyncExitStack, client: httpx.AsyncClient, saga_id: str) -> Any:
    return stack.enter_async_context(client.stream("GET", f"/api/missions/{saga_id}/events"))


@pytest.mark.parametrize(
    ("limit", "status", "other"),
    [
        ("web_streams", 503, False),
        ("web_streams_per_client", 429, False),
        ("web_streams_per_mission", 503, True),
    ],
)
async def test_the_number_of_event_streams_is_limited(
    app_bus: Bus, limit: str, status: int, other: bool
) -> None:
    """One more is refused, with the time to wait; one that ends makes room."""
    for saga_id in ("m", "n"):
        await _start(saga_id)
    async with (
        _served(**{limit: 2}) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        AsyncExitStack() as stack,
    ):
        async with AsyncExitStack() as first:
            assert (await _stream(first, client, "m")).status_code == 200
            assert (await _stream(stack, client, "m")).status_code == 200
            refused = await client.get("/api/missions/m/events")
            assert (refused.status_code, refused.json()["title"]) == (status, "TooManyStreams")
            assert int(refused.headers["retry-after"]) > 0
            other_status = (await _stream(first, client, "n")).status_code
            assert other_status == (200 if other else status)

        async def is_free() -> bool:
            async with AsyncExitStack() as again:
                return bool((await _stream(again, client, "m")).status_code == 200)

        await eventually(is_free, within_s=5, why="a stream that has ended makes room")


async def test_a_refused_or_unknown_mission_takes_no_place(app_bus: Bus) -> None:
    """Nor does a bad event id."""
    await _start()
    async with (
        _served(web_streams=1) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        AsyncExitStack() as stack,
    ):
        for _ in range(3):
            assert (await client.get("/api/missions/nobody/events")).status_code == 404
            bad = await client.get("/api/missions/m/events", params={"after": "x"})
            assert bad.status_code == 422
        assert (await _stream(stack, client, "m")).status_code == 200


async def test_a_client_that_reads_nothing_is_disconnected(
    app_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is free then."""
    monkeypatch.setattr(impatient, "READING_S", 0.2)
    await _start()
    for _ in range(200):
        await add_entry(app_bus, "saga:m:replies", {"text": "x" * 60_000})
    async with _served(web_streams=1) as port:
        with socket.socket() as stuck:
            stuck.setblocking(False)
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(stuck, ("127.0.0.1", port))
            request = b"GET /api/missions/m/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await loop.sock_sendall(stuck, request)
            await loop.sock_recv(stuck, 100)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

                async def is_free() -> bool:
                    async with client.stream("GET", "/api/missions/m/events") as answer:
                        return bool(answer.status_code == 200)

                assert not await is_free()
                await eventually(is_free, within_s=10, why="the client is disconnected")


def test_limits_count_what_is_open(app_bus: Bus) -> None:
    """A limit that is reached leaves no count behind."""
    limits = StreamLimits(choose_settings(web_streams_per_client=1))
    with limits.take("a", "m"), limits.take("b", "m"):
        for _ in range(3):
            with pytest.raises(TooManyStreams), limits.take("a", "n"):
                pytest.fail("taken")
    with limits.take("a", "m"):
        assert not limits._missions["n"]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::2", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("testclient", "testclient"),
    ],
)
def test_a_client_is_known_by_its_address(address: str, client: str) -> None:
    """One IPv6 network is one client: it has more addresses than there are limits."""
    assert client_of({"client": (address, 1)}) == client


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/healthz?" + "x" * 9000, {}, 414),
        ("/" + "x" * 9000, {}, 414),
        ("/healthz", {"x-large": "x" * 40_000}, 431),
        ("/healthz", {f"x-{number}": "1" for number in range(120)}, 431),
        ("/healthz", {"cookie": "x" * 8000}, 200),
    ],
)
async def test_addresses_and_headers_are_limited(
    app_bus: Bus, path: str, headers: dict[str, str], status: int
) -> None:
    """They are refused before they reach the application."""
    async with (
        _served() as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert (await client.get(path, headers=headers)).status_code == status


async def test_endless_headers_are_cut(app_bus: Bus) -> None:
    """The server reads no more than its limit."""
    async with _served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000)
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
