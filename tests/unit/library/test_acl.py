"""The rights of roles: what they must do works, and what they must not is refused."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from sagastream import (
    Atomic,
    Bus,
    Command,
    CommandListener,
    InvalidMessage,
    Progress,
    RequestCancelled,
    Retention,
    Schedule,
    ServerUnsuitable,
    Write,
    multi_stage_reply,
)
from sagastream._functions.library import LIBRARY, SOURCE
from sagastream.cli.main import main
from sagastream.memory import purge
from sagastream.rights import IN_FUNCTIONS, ROLES, Role, rules
from sagastream.saga import (
    Compensation,
    Parallel,
    Saga,
    SagaRunner,
    Step,
    WaitFor,
    signal_saga,
)
from sagastream.status import dead_letters, request_status, stream_status
from sagastream.testing import EmbeddedServer, running
from sagastream.web.application import make_page
from tests.plain_client import add_entry, connect
from tests.polling import eventually

pytestmark = pytest.mark.blocking  # it has its own server

STREAM = "till:commands"
_FUNCTIONS: dict[Role, set[str]] = {
    "requester": {"emit", "cancel", "follow", "inspect", "event", "join", "leave", "send_event"},
    "listener": {
        *("begin", "progress", "finish", "release", "renew", "adopt", "sweep", "make_group"),
        *("give_back", "reject", "announce", "forward", "inspect"),
        *("put_schedule", "take_schedules", "fire"),
    },
    "saga-runner": {"journal", "take_due", "heartbeat", "await_event"},
    "reader": {"inspect"},
    "administrator": {
        *("purge", "inspect", "cancel", "emit", "journal", "heartbeat", "pause", "resume"),
        *("purge", "inspect", "cancel", "emit", "journal", "heartbeat", "put_schedule", "fire"),
        *("pause_schedule", "resume_schedule", "drop_schedule", "send_event"),
    },
}
# The second word belongs to the name of these commands.
_CONTAINERS = {"XGROUP", "XINFO", "MEMORY"}
# `inspect` shares its reader with functions that write; it may not, and does not.
_NEVER_BY_INSPECT = {"del", "hset", "pexpire", "pttl"}


def _commands_of_functions() -> dict[str, set[str]]:
    """The commands that each function may call, from the Lua."""
    source = re.sub(r"--.*", "", SOURCE)
    parts = re.split(r"^(?=local function |register\()", source, flags=re.MULTILINE)
    bodies = {
        found[1]: part for part in parts if (found := re.match(r"local function (\w+)", part))
    }
    registered = dict(re.findall(r"register\('(\w+)', (?:batched\()?(\w+)", SOURCE))

    def called(name: str, seen: set[str]) -> set[str]:
        if name in seen:
            return set()
        seen.add(name)
        commands = set()
        for first, second in re.findall(r"redis\.p?call\('(\w+)'(?:, '(\w+)')?", bodies[name]):
            commands.add(f"{first}|{second}" if first in _CONTAINERS else first)
        others = re.findall(r"\b(\w+)\(|pcall\((\w+)", bodies[name].partition("\n")[2])
        for other in {word for pair in others for word in pair} & bodies.keys():
            commands |= called(other, seen)
        return {each.lower() for each in commands}

    always = called("flush", set())
    by_name = {name: called(body, set()) | always for name, body in registered.items()}
    by_name["inspect"] = called("inspect", set()) - _NEVER_BY_INSPECT
    return by_name


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_the_commands_of_its_functions_and_no_others(role: Role) -> None:
    """Read from the source of the functions, so that a new command is not forgotten."""
    of_functions = _commands_of_functions()
    assert len(of_functions) > 20
    needed = set[str]().union(*(of_functions[name] for name in _FUNCTIONS[role]))
    assert needed == IN_FUNCTIONS[role]


@multi_stage_reply(stream=STREAM, event_type="till:add")
async def add(command: Command, progress: Progress) -> dict[str, Any]:
    """Report progress, and wait for `wait_s`; fail if `fail`."""
    await progress(0.5)
    await asyncio.sleep(command.payload.get("wait_s", 0))
    if command.payload.get("fail"):
        raise ValueError("as requested")
    return {"sum": sum(command.payload.get("prices", ()))}


@multi_stage_reply(
    stream=STREAM, event_type="till:book", effect="atomic", retention=Retention(max_kept=1)
)
async def book(command: Command, _progress: Progress) -> Atomic:
    """Write a value and a field."""
    key = command.request_id
    write = Write(key, "1", expected=None)
    return Atomic({}, (write, Write(f"{key}:h", "1", expected=None, field="f")))


class Tenants:
    """A server whose functions an administrator has installed, with a user for each role."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self.admin: Any = connect(server.url)

    def url(self, role: Role, namespace: str = "shop") -> str:
        """The URL of a new user with the rights of a role."""
        name = f"{namespace}-{role}"
        self.admin.execute_command("ACL", "SETUSER", name, ">pw", *rules(role, namespace)[1:])
        return self._server.url.replace("://", f"://{name}:pw@", 1)

    def bus(self, role: Role, namespace: str = "shop") -> Bus:
        """The bus of such a user."""
        return Bus(self.url(role, namespace), namespace=namespace, call_timeout_s=3)

    def denied(self) -> list[tuple[str, str]]:
        """What the server has refused: the reason, and the command or key.

        INFO and FUNCTION LIST describe all tenants. A client asks for them at its start, and does
        without.
        """
        found = [(entry["reason"], entry["object"]) for entry in self.admin.acl_log()]
        asked = {("command", "info"), ("command", "function|list")}
        return [each for each in found if each not in asked]


@pytest.fixture
def tenants(own_server: EmbeddedServer, capsys: pytest.CaptureFixture[str]) -> Tenants:
    """A server with installed functions."""
    assert main(["--url", own_server.url, "install"]) == 0
    assert f"{LIBRARY} is installed" in capsys.readouterr().out
    return Tenants(own_server)


async def _act_as_requester(bus: Bus) -> None:
    await bus.ping()
    names: dict[str, Any] = {"request_id": "r", "correlation_id": "c", "reply_stream": "mine"}
    await bus.emit_command(
        STREAM, event_type="till:add", payload={}, maxlen=1000, ttl=1000, deadline_s=60, **names
    )
    await bus.read_replies("mine", "c", "r", 10)
    await bus.emit_event(
        "notes", event_type="a:b", status="seen", payload={}, correlation_id="c", maxlen=9, ttl=60
    )
    stages: list[Any] = []
    await bus.request_and_reply(STREAM, "till:add", {}, 10, on_progress=stages.append)
    assert len(stages) >= 2
    assert [stage["status"] async for stage in bus.follow("r")][-1] == "completed"
    await bus.request_and_reply(STREAM, "till:book", {}, 10, supersedes=["r", "never"])
    slow = asyncio.create_task(
        bus.request_and_reply(STREAM, "till:add", {"wait_s": 30}, 20, request_id="slow")
    )
    await eventually(lambda: _is_running(bus, "slow"), within_s=10, why="its handler runs")
    assert await bus.cancel("slow") == "cancelling"
    with pytest.raises(RequestCancelled):
        await slow
    assert await bus.cancel("later") == "cancelled"
    await bus.emit_command("idle:commands", event_type="till:add", payload={}, request_id="idle")
    assert await bus.cancel("idle") == "cancelled"
    await asyncio.gather(*(bus.request_and_reply(STREAM, "till:book", {}, 10) for _ in range(300)))
    for number in range(130):
        await bus.emit_command(
            STREAM, event_type="till:add", payload={}, request_id=f"w{number}", delay_s=60
        )
    for number in range(130):
        assert await bus.cancel(f"w{number}") == "cancelled"


async def _is_running(bus: Bus, request_id: str) -> bool:
    status = await request_status(bus, request_id)
    return status is not None and status.status == "running"


async def _act_as_runner(bus: Bus) -> None:
    undo = Compensation("till:add", lambda _given, _results: {})
    steps = (
        Step("one", STREAM, "till:add", lambda _given, _results: {}, undo),
        Step("two", STREAM, "till:add", lambda given, _results: dict(given)),
    )
    runner = SagaRunner(bus, Saga("trip", steps), wake_after_s=0.5)
    serving = asyncio.create_task(runner.serve())
    assert (await runner.wait(await runner.start({}))).status == "completed"
    assert (await runner.wait(await runner.start({"fail": True}))).status == "compensated"
    assert len(await runner.ids("ended")) == 2
    waiting = SagaRunner(bus, Saga("waiting", (WaitFor("go"), Parallel(*steps))))
    serving_waits = asyncio.create_task(waiting.serve())
    await waiting.start({}, saga_id="w")
    await eventually(
        lambda: bus.command("EXISTS", bus.key("signal:w:go")), within_s=10, why="it waits"
    )
    assert await signal_saga(bus, "w", "go")
    assert (await waiting.wait("w")).status == "completed"
    for task in (serving, serving_waits):
        task.cancel()
    await asyncio.wait({serving, serving_waits})


async def _act_as_reader(bus: Bus) -> None:
    await bus.ping()
    await stream_status(bus, STREAM)
    await request_status(bus, "r")
    await dead_letters(bus, STREAM)
    await bus.last_entries(STREAM, 3)


async def _act_as_administrator(bus: Bus) -> None:
    await purge(bus)
    await bus.emit_command(STREAM, event_type="till:add", payload={"fail": 1}, request_id="failed")
    await eventually(lambda: bus.outcome("failed"), within_s=10, why="it has ended")
    await bus.emit_command("idle:commands", event_type="till:add", payload={}, request_id="idle")
    steps = (Step("one", "idle:commands", "till:add", lambda _given, _results: {}),)
    for saga_id in ("trip-1", "trip-2"):
        await SagaRunner(bus, Saga("trip", steps)).start({}, saga_id=saga_id)
    letter = {"event_type": "till:add", "payload": "{}", "request_id": "lost"}
    letters = [await add_entry(bus, f"{STREAM}:dead", letter) for _ in range(2)]
    for words in (
        *("status", "doctor", "listener list", "request list", "request show fail", "saga list"),
        *("request retry failed", "request cancel idle", "saga show trip-1", "saga resume trip-1"),
        *("saga compensate trip-2", f"dead list {STREAM}", f"dead show {STREAM} {letters[0]}"),
        *(f"dead retry {STREAM} {letters[0]}", f"dead drop {STREAM} {letters[1]}", "dead list"),
        *("memory", "purge", "schedule set s --stream till:commands --event-type a:b --every 60"),
        *("schedule list", "schedule show s", "schedule pause s", "schedule resume s"),
        *("schedule run s", "schedule drop s", "saga signal trip-1 go", "saga check"),
    ):
        options = ["--url", bus.url, "--namespace", bus.namespace, *words.split()]
        assert await asyncio.to_thread(main, options) in {0, 1 if words == "doctor" else 0}, words
    transport = httpx.ASGITransport(make_page(bus))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as page:
        for path in ("/", "/requests", "/request?id=failed", "/sagas", "/saga?id=trip-1", "/dead"):
            assert (await page.get(path)).status_code == 200, path


_ACTS: dict[Role, Callable[[Bus], Awaitable[None]]] = {
    "requester": _act_as_requester,
    "saga-runner": _act_as_runner,
    "reader": _act_as_reader,
    "administrator": _act_as_administrator,
}


@pytest.mark.parametrize("role", sorted(_ACTS))
async def test_a_role_can_do_its_work(tenants: Tenants, role: Role) -> None:
    """The server refuses none of its commands, nor of its listeners'; also not malformed entries."""
    async with tenants.bus("listener") as own, tenants.bus(role) as bus:
        schedule = Schedule(name="tick", stream=STREAM, event_type="till:add", every_s=1.0)
        listeners = [
            CommandListener(own, [add, book], lease_s=0.5, drain_s=0.1, schedules=[schedule])
            for _ in range(2)
        ]
        async with running(listeners[0]), running(listeners[1]):
            tenants.admin.xadd("{shop}:till:commands", {"x": "y"})
            tenants.admin.xadd(
                "{shop}:till:commands",
                {"event_type": "till:add", "payload": "{}", "request_id": "p"},
            )
            await _ACTS[role](bus)
            await eventually(
                lambda: tenants.admin.xlen("{shop}:till:commands:dead"),
                within_s=10,
                why="the malformed entry is a dead letter",
            )
            await eventually(
                lambda: tenants.admin.hget("{shop}:schedule:tick", "fired"),
                within_s=10,
                why="the schedule is fired",
            )
    assert tenants.denied() == []


async def test_a_role_can_use_the_database_of_its_url(tenants: Tenants) -> None:
    """The rights are the same in all databases."""
    url = f"{tenants.url('requester')}?db=3"
    async with Bus(url, namespace="shop") as bus:
        await bus.emit_command(STREAM, event_type="till:add", payload={})
    assert tenants.denied() == []


@pytest.mark.parametrize("namespace", ["*", "a*", "sh?p", "[a-z]", "a\\b", "", "a b"])
def test_a_namespace_that_matches_others_is_refused(namespace: str) -> None:
    """A pattern in it would give rights over other tenants."""
    with pytest.raises(InvalidMessage, match="namespace"):
        rules("requester", namespace)


_FOREIGN = (
    *("GET {bank}:x", "SET {bank}:x 1", "XADD {bank}:till:commands * a b", "FLUSHALL", "KEYS *"),
    *("CONFIG GET *", "FUNCTION FLUSH", "ACL LIST", "SHUTDOWN", "SCRIPT FLUSH", "EVAL return 0"),
    f"FCALL {LIBRARY}_inspect 1 {{bank}}:request:r",
)


@pytest.mark.parametrize("role", [role for role in ROLES if role != "administrator"])
def test_a_role_cannot_reach_other_tenants(tenants: Tenants, role: Role) -> None:
    """Nor load functions, which would be those of all tenants."""
    with connect(tenants.url(role)) as client:
        replaced = SOURCE.replace("local function emit(", "local function emit2(")
        for command in (
            *(each.split() for each in _FOREIGN),
            ["FUNCTION", "LOAD", "REPLACE", replaced],
        ):
            with pytest.raises(Exception, match=r"(?i)no permission|can't access|unknown command"):
                client.execute_command(*command)


async def test_a_user_who_may_not_load_hears_who_must(own_server: EmbeddedServer) -> None:
    """Requester and listener name the verb; after it both work, without more rights."""
    tenants = Tenants(own_server)
    async with tenants.bus("requester") as bus, tenants.bus("listener") as own:
        for call in (
            bus.ping,
            lambda: bus.emit_command(STREAM, event_type="till:add", payload={}),
            CommandListener(own, [add]).run,
        ):
            with pytest.raises(
                ServerUnsuitable, match="administrator must run once: sagastream install"
            ):
                await call()
        assert await asyncio.to_thread(main, ["--url", own_server.url, "install"]) == 0
        async with running(CommandListener(own, [add])):
            reply = await bus.request_and_reply(STREAM, "till:add", {"prices": [2, 3]}, 10)
    assert reply["payload"] == {"sum": 5}


def test_a_library_with_our_name_and_other_code_is_refused(
    own_server: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`install` says so, and what to do; a second install of ours changes nothing."""
    other = f"#!lua name={LIBRARY}\nredis.register_function('{LIBRARY}_emit', function() end)"
    with connect(own_server.url) as client:
        client.function_load(other)
        assert main(["--url", own_server.url, "install"]) == 1
        assert f"FUNCTION DELETE {LIBRARY}" in capsys.readouterr().err
        client.function_delete(LIBRARY)
    for word in ("is installed", "was there"):
        assert main(["--url", own_server.url, "install"]) == 0
        assert word in capsys.readouterr().out


def test_the_rights_are_printed_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """As text to paste, or as JSON; without a server."""
    arguments = ["--url", "unix:///nowhere", "--namespace", "shop", "acl", "reader"]
    assert main([*arguments, "--user", "eye"]) == 0
    assert capsys.readouterr().out.startswith(
        "ACL SETUSER eye reset on resetchannels %R~{shop}:* +"
    )
    assert main([*arguments, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rules"] == rules("reader", "shop")
    assert main(["acl", "reader"]) == 1
    assert "namespace" in capsys.readouterr().err
