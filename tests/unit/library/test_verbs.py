"""The verbs of `sagastream`: their examples run, and what is wrong gets one line and a code."""

import argparse
import asyncio
import json
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sagastream import Bus, Command, Progress, RetryPolicy, multi_stage_reply
from sagastream.cli import main as cli
from sagastream.cli.main import main, make_parser
from sagastream.flow_control import queues
from sagastream.inspection import find_requests, listeners, streams
from sagastream.saga import Compensation, Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer
from tests.listeners import listening
from tests.plain_client import add_entry
from tests.polling import eventually

pytestmark = pytest.mark.blocking

STREAM = "shop:commands"
LETTER = "1764000000000-0"
KNOWN_CODES = {0, 1, 2, 130, 141}


@multi_stage_reply(stream=STREAM, event_type="shop:order")
async def order(command: Command, progress: Progress) -> dict[str, Any]:
    """Pack an order; fail if it has no count."""
    await progress(0.5)
    return {"packed": command.payload["count"]}


@multi_stage_reply(stream=STREAM, event_type="shop:undo")
async def undo(_command: Command, _progress: Progress) -> None:
    """Fail."""
    raise OSError("the printer is off")


UNDO = Compensation("shop:undo", lambda _given, _results: {})
TRIP = Saga("trip", (Step("pack", STREAM, "shop:order", lambda given, _results: given, UNDO),))
WAIT = Saga("wait", (Step("wait", "slow:commands", "slow:wait", lambda given, _results: given),))


@dataclass
class Verbs:
    """Runs verbs on one server and namespace."""

    bus: Bus
    capsys: pytest.CaptureFixture[str]

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run one; returns its exit code, standard output and standard error."""
        options = ["--url", self.bus.url, "--namespace", self.bus.namespace, *arguments]
        self.capsys.readouterr()
        try:
            code = await asyncio.to_thread(main, options)
        except SystemExit as ended:
            code = int(str(ended.code))
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    async def json(self, *arguments: str) -> Any:
        """Run one; returns its answer."""
        code, out, err = await self.run(*arguments, "-o", "json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
async def verbs(
    server: EmbeddedServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Verbs]:
    """A server with requests, sagas and a dead letter, and a listener."""
    async with Bus(server.url, namespace=namespace) as bus, listening(bus, [order, undo]):
        ask = bus.emit_command
        await ask(STREAM, event_type="shop:order", payload={}, request_id="order-7")
        await ask(STREAM, event_type="shop:order", payload={"count": 1}, request_id="order-8")
        await ask("slow:commands", event_type="slow:wait", payload={}, request_id="order-9")
        for request_id in ("order-7", "order-8"):
            await eventually(
                lambda request_id=request_id: bus.outcome(request_id),  # type: ignore[misc]
                within_s=5,
                why="it has ended",
            )
        letter = {"event_type": "shop:order", "payload": '{"count":1}', "request_id": "order-5"}
        reason = {"dead_reason": "HandlerLost: gone", "dead_entry_id": "1-1"}
        await add_entry(bus, f"{STREAM}:dead", letter | reason, entry_id=LETTER)
        await SagaRunner(bus, TRIP, max_attempts=1).run(await _start(bus, TRIP, "trip-1"))
        driving = asyncio.create_task(SagaRunner(bus, WAIT).run(await _start(bus, WAIT, "trip-2")))
        await eventually(
            lambda: _has_intent(bus, "trip-2"), within_s=5, why="its step has been sent"
        )
        driving.cancel()
        await asyncio.wait({driving})
        yield Verbs(bus, capsys)


async def _start(bus: Bus, saga: Saga, saga_id: str) -> str:
    return await SagaRunner(bus, saga).start({}, saga_id=saga_id)


async def _has_intent(bus: Bus, saga_id: str) -> bool:
    return bool((await SagaRunner(bus, WAIT).journal(saga_id)).entries)


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield inner
                yield from _parsers(inner)


EXAMPLES = {
    parser.prog: parser.get_default("example")
    for parser in _parsers(make_parser())
    if parser.get_default("example")
}
ASKING = {
    name: text for name, text in EXAMPLES.items() if name.split()[-1] not in {"run", "dev", "serve"}
}


def test_every_verb_has_an_example_in_its_help() -> None:
    """Also those of groups."""
    for parser in _parsers(make_parser()):
        if not any(isinstance(each, argparse._SubParsersAction) for each in parser._actions):
            assert f"Example: {EXAMPLES[parser.prog]}" in " ".join(parser.format_help().split())


def test_the_help_of_the_program_has_the_exit_codes() -> None:
    """Each with its meaning."""
    text = " ".join(make_parser().format_help().split())
    for code in KNOWN_CODES:
        assert f" {code} " in text


@pytest.mark.parametrize("output", ["text", "json", "jsonl"])
async def test_the_examples_run(verbs: Verbs, output: str) -> None:
    """Each on a server that has what it names, in each form; JSON can be read."""
    codes = {}
    for name, example in ASKING.items():
        words = shlex.split(example)[1:]
        if words[0] == "--namespace":
            words = words[2:]
        if "-o" in words:
            words = words[: words.index("-o")]
        code, out, err = await verbs.run(*words, "-o", output)
        codes[name] = code
        assert "Traceback" not in err, name
        assert out.strip() or name.endswith(("letter", "retry", "drop", "list")), (name, err)
        if output != "text":
            for line in out.splitlines():
                json.loads(line)
        if words[:2] in (["dead", "retry"], ["dead", "drop"]) and not code:
            letter = {"event_type": "shop:order", "payload": "{}", "request_id": "order-5"}
            await verbs.bus.command("DEL", verbs.bus.key(f"{STREAM}:dead"))
            await add_entry(verbs.bus, f"{STREAM}:dead", letter, entry_id=LETTER)
    assert {name for name, code in codes.items() if code} == {"sagastream doctor"}, codes


async def test_what_is_paused_waits_and_is_resumed(verbs: Verbs) -> None:
    """`status`, `queue list`, `request show` and `doctor` say so."""
    target = (STREAM, "--event-type", "shop:order")
    paused = await verbs.json("pause", *target, "--reason", "the bank is closed")
    assert (paused["target"], paused["reason"]) == ("shop:order", "the bank is closed")
    await verbs.bus.emit_command(
        STREAM, event_type="shop:order", payload={"count": 3}, request_id="order-10"
    )
    await eventually(lambda: queues(verbs.bus, STREAM), within_s=5, why="it waits")
    rows = {row["stream"]: row for row in await verbs.json("status")}
    assert (rows[STREAM]["waiting"], rows[STREAM]["paused"]) == (1, ["shop:order"])
    (queue,) = await verbs.json("queue", "list", STREAM)
    assert (queue["reason"], queue["key"], queue["waiting"]) == ("paused", "shop:order", 1)
    shown = await verbs.json("request", "show", "order-10")
    assert shown["waits_for"] == "paused shop:order"
    _, out, _ = await verbs.run("doctor")
    assert "paused: shop:order; see: sagastream queue list" in out
    assert await verbs.run("resume", *target) == (0, "resumed shop:order\n", "")
    reply = await verbs.bus.request_and_reply(
        STREAM, "shop:order", {"count": 3}, 5, request_id="order-10"
    )
    assert reply["payload"] == {"packed": 3}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("resume", STREAM), 1, f"* of {STREAM} is not paused; paused there: nothing"),
        (("pause", STREAM, "--key", "7"), 1, "key: '7' is not NAME=VALUE"),
        (("pause", STREAM, "--key", "a=1", "--event-type", "x"), 1, "give either"),
        (("pause", ""), 1, "stream: '' must not be empty"),
    ],
    ids=["nothing paused", "no key", "both", "no stream"],
)
async def test_what_cannot_be_paused_gets_one_line(
    verbs: Verbs, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """With the name of the argument, and the documented code."""
    found, out, err = await verbs.run(*arguments)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert said in err


async def test_status_and_listeners(verbs: Verbs) -> None:
    """Depth, listeners and the oldest command of each stream."""
    rows = {row["stream"]: row for row in await verbs.json("status")}
    assert set(rows) == {STREAM, "slow:commands"}
    assert (rows[STREAM]["listeners"], rows[STREAM]["dead_letters"]) == (1, 1)
    assert rows["slow:commands"]["listeners"] == 0
    assert rows["slow:commands"]["oldest_s"] > 0
    (listener,) = await verbs.json("listener", "list")
    assert listener["handles"] == [f"{STREAM} shop:order", f"{STREAM} shop:undo"]
    text = (await verbs.run("listener", "list"))[1]
    assert listener["listener"] in text, "ids are not cut"


async def test_requests_are_listed_and_shown(verbs: Verbs) -> None:
    """By status and event type, with whole ids; a progress only while one runs."""
    rows = {row["request_id"]: row for row in await verbs.json("request", "list")}
    assert {"order-7", "order-8", "order-9"} <= set(rows)
    assert rows["order-7"]["error"] == "KeyError('count')"
    assert (rows["order-8"]["status"], rows["order-8"]["progress"]) == ("completed", {})
    failed = await verbs.json("request", "list", "--status", "failed", "--event-type", "shop:order")
    assert {row["request_id"] for row in failed if not row["saga_id"]} == {"order-7"}
    of_saga = await verbs.json("request", "list", "--saga", "trip-1", "--limit", "0")
    assert {row["saga_id"] for row in of_saga} == {"trip-1"}
    of_all = await verbs.json("request", "list", "--saga", "trip", "--limit", "0")
    assert {row["saga_id"] for row in of_all} == {"trip-1", "trip-2"}
    assert await verbs.json("request", "list", "--correlation", "none") == []
    code, text, _ = await verbs.run("request", "show", "order-7")
    assert code == 0
    assert "KeyError('count')" in text
    assert 'return {"packed": command.payload["count"]}' in text, "with its traceback"


async def test_pages_have_each_request_once(verbs: Verbs) -> None:
    """The hint of a page leads to the next one."""
    every = {row["request_id"] for row in await verbs.json("request", "list", "--limit", "0")}
    seen: list[str] = []
    after: list[str] = []
    while True:
        code, out, err = await verbs.run("request", "list", "--limit", "2", *after, "-o", "jsonl")
        assert code == 0
        seen += [json.loads(line)["request_id"] for line in out.splitlines()]
        if "--after" not in err:
            break
        after = ["--after", err.split()[-1]]
    assert sorted(seen) == sorted(every)
    first = await verbs.run("saga", "list", "--limit", "1", "-o", "json")
    assert [row["saga_id"] for row in json.loads(first[1])] == ["trip-1"], "the stuck one"
    rest = await verbs.json("saga", "list", "--after", first[2].split()[-1])
    assert [row["saga_id"] for row in rest] == ["trip-2"]


async def test_a_request_is_cancelled_and_retried(verbs: Verbs) -> None:
    """What cannot be retried says why."""
    assert (await verbs.run("request", "cancel", "order-9"))[:2] == (0, "cancelled\n")
    assert (await verbs.run("request", "cancel", "order-9"))[:2] == (0, "cancelled\n")
    first = await verbs.json("request", "retry", "order-7")
    assert await verbs.json("request", "retry", "order-7") == first, "two calls emit it once"
    assert first["retried"] == "order-7"
    outcome = await eventually(
        lambda: verbs.bus.outcome(first["request_id"]), within_s=5, why="it has run again"
    )
    assert outcome["payload"]["error_type"] == "KeyError"
    for request_id, reason in (("order-8", "has completed"), ("order-77", "no request")):
        code, out, err = await verbs.run("request", "retry", request_id)
        assert (code, out) == (1, "")
        assert reason in err
    (failed,) = await verbs.json("request", "list", "--saga", "trip-1", "--event-type", "shop:undo")
    code, _, err = await verbs.run("request", "retry", failed["request_id"])
    assert (code, "belongs to a saga" in err) == (1, True)
    await verbs.bus.command("DEL", verbs.bus.key(STREAM))
    code, _, err = await verbs.run("request", "retry", "order-7")
    assert (code, "no longer kept" in err) == (1, True)


async def test_a_request_is_sent(verbs: Verbs) -> None:
    """Its result goes to standard output, its stages to standard error."""
    send = ("request", "send", STREAM, "shop:order")
    code, out, err = await verbs.run(*send, '{"count": 3}', "--id", "mine")
    assert (code, json.loads(out)) == (0, {"packed": 3})
    assert err.splitlines()[0] == "mine start"
    assert (await verbs.run(*send))[0] == 1
    assert (await verbs.run(*send, "[1]"))[0] == 2
    assert (await verbs.run(*send, "{"))[0] == 2


async def test_sagas_are_shown_resumed_and_compensated(verbs: Verbs) -> None:
    """Without their declaration; a runner continues them."""
    code, text, _ = await verbs.run("saga", "show", "trip-1")
    assert code == 0
    for fact in ("stuck", "the printer is off", "undo", "pack"):
        assert fact in text
    assert await verbs.json("saga", "list", "--name", "wait", "--status", "running")
    assert (await verbs.run("saga", "resume", "trip-1"))[:2] == (0, "trip-1 is compensating\n")
    serving = asyncio.create_task(SagaRunner(verbs.bus, TRIP, max_attempts=1).serve())
    await eventually(lambda: _is(verbs, "trip-1", "stuck"), within_s=10, why="it was tried again")
    serving.cancel()
    await asyncio.wait({serving})
    code, text, _ = await verbs.run("saga", "compensate", "trip-2", "--reason", "no stock")
    assert (code, text) == (0, "trip-2 is compensating\n")
    (entry,) = (await SagaRunner(verbs.bus, WAIT).journal("trip-2")).entries
    assert entry.error["message"] == "no stock"
    outcome = await verbs.bus.outcome(entry.request_id)
    assert outcome is not None
    assert outcome["status"] == "cancelled"
    serving = asyncio.create_task(SagaRunner(verbs.bus, WAIT).serve())
    await eventually(
        lambda: _is(verbs, "trip-2", "compensated"), within_s=10, why="nothing is left to undo"
    )
    serving.cancel()
    await asyncio.wait({serving})
    for verb, reason in (("resume", "nothing to resume"), ("compensate", "only a running one")):
        code, _, err = await verbs.run("saga", verb, "trip-2")
        assert (code, reason in err) == (1, True)


async def _is(verbs: Verbs, saga_id: str, status: str) -> bool:
    return bool((await verbs.json("saga", "show", saga_id))["status"] == status)


async def test_dead_letters_of_all_streams(verbs: Verbs) -> None:
    """By the beginning of an id; a dropped one is gone."""
    await add_entry(verbs.bus, "other:commands:dead", {"event_type": "x"}, entry_id="7-1")
    rows = await verbs.json("dead", "list")
    assert [(row["stream"], row["id"]) for row in rows] == [
        ("other:commands", "7-1"),
        (STREAM, LETTER),
    ]
    assert (await verbs.json("dead", "show", STREAM, "17640"))["id"] == LETTER
    assert (await verbs.run("dead", "drop", STREAM, "1764"))[:2] == (0, f"{LETTER}\n")
    assert (await verbs.run("dead", "drop", STREAM, "1764"))[0] == 1
    assert await verbs.json("dead", "list", STREAM) == []
    assert await verbs.run("dead", "list", STREAM) == (0, "", "nothing found\n")


async def test_doctor_names_problems_and_fixes(verbs: Verbs) -> None:
    """It ends with 1 if there is one."""
    code, out, _ = await verbs.run("doctor", "-o", "json")
    found = {row["check"]: row for row in json.loads(out) if row["verdict"] == "problem"}
    assert code == 1
    assert set(found) == {"stream slow:commands", "sagas"}
    assert "sagastream run" in found["stream slow:commands"]["fix"]
    assert "trip-1" in found["sagas"]["detail"]
    code, text, _ = await verbs.run("doctor")
    assert "problem  stream slow:commands: 0 listeners" in text


# -- what is wrong ----------------------------------------------------------------------------


WITH_ID: dict[str, Callable[[str], list[str]]] = {
    "request show": lambda given: ["request", "show", given],
    "request cancel": lambda given: ["request", "cancel", given],
    "request retry": lambda given: ["request", "retry", given],
    "saga show": lambda given: ["saga", "show", given],
    "saga resume": lambda given: ["saga", "resume", given],
    "saga compensate": lambda given: ["saga", "compensate", given],
    "dead show": lambda given: ["dead", "show", STREAM, given],
    "dead retry": lambda given: ["dead", "retry", STREAM, given],
    "dead drop": lambda given: ["dead", "drop", STREAM, given],
}


@pytest.mark.parametrize("verb", WITH_ID)
async def test_wrong_ids(verbs: Verbs, verb: str) -> None:
    """An unknown id is an error, an ambiguous beginning is a usage error, and an odd one is either."""
    await add_entry(verbs.bus, f"{STREAM}:dead", {"event_type": "x"}, entry_id="1764000000001-0")
    ambiguous = {"r": "order-", "s": "trip-", "d": "1764"}[verb[0]]
    for given, expected in (
        ("9999", {1}),
        (ambiguous, {2}),
        ("*", {1}),
        ("[a-z", {1}),
        ("", {1, 2}),
    ):
        code, out, err = await verbs.run(*WITH_ID[verb](given))
        assert (code in expected, out) == (True, ""), (given, code, err)
        assert len(err.splitlines()) == 1
        assert err.startswith("sagastream")
    candidates = (await verbs.run(*WITH_ID[verb](ambiguous)))[2]
    assert {"r": "order-7", "s": "trip-1", "d": LETTER}[verb[0]] in candidates


@pytest.mark.parametrize("name", ASKING)
def test_no_server(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each verb that needs one says in one line that it does not answer."""
    monkeypatch.setattr(cli, "_CALL_TIMEOUT_S", 0.2)
    words = shlex.split(ASKING[name])[1:]
    words = words[2:] if words[0] == "--namespace" else words
    code = main(["--url", "redis://:pw@127.0.0.1:1/0", "--namespace", "n", *words])
    captured = capsys.readouterr()
    if name.endswith("acl"):
        assert code == 0
        return
    assert (code, captured.out) == (1, "")
    assert captured.err.startswith("sagastream: no answer from redis://127.0.0.1:1")
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    ["htp://x", "nonsense", "", "redis://:pa/ss@host:6379", "redis://host:port", "unix:", "://"],
)
def test_a_wrong_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a usage error, and a password in it is not shown."""
    code = main(["--url", url, "status"])
    captured = capsys.readouterr()
    assert (code, captured.out) in {(2, ""), (1, "")}
    assert len(captured.err.splitlines()) == 1
    assert "pa/ss" not in captured.err
    assert "pa" not in captured.err.replace("password", "").replace("PATH", "")
    assert code == 2 or url == "unix:"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        [],
        ["request"],
        ["request", "list", "--status", "odd"],
        ["request", "list", "--limit", "-1"],
        ["request", "list", "--after", "x"],
        ["saga", "list", "--after", "x"],
        ["purge", "--older-than", "nan"],
        ["status", "-o", "xml"],
        ["request", "show", ""],
        ["dead", "drop", "shop:commands", ""],
        ["run"],
        ["dev", "--port", "x"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with 2, and one line says what is wrong."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ": error: " in line
    assert "--help" in line


async def test_a_pipe_that_closes(verbs: Verbs) -> None:
    """The verb ends quietly, as one does that is killed by SIGPIPE."""
    command = [sys.executable, "-m", "sagastream.cli", "--url", verbs.bus.url]
    command += ["--namespace", verbs.bus.namespace, "request", "list", "-o", "jsonl"]

    def run() -> tuple[int, bytes]:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            return process.wait(30), process.stderr.read()

    assert await asyncio.to_thread(run) == (141, b"")


# -- many -------------------------------------------------------------------------------------


async def test_a_list_does_not_block_the_server(bus: Bus) -> None:
    """Thousands of requests are read in steps, and a record that is malformed hides no other."""
    await asyncio.gather(
        *(
            bus.emit_command(STREAM, event_type="shop:order", payload={}, request_id=f"many-{i}")
            for i in range(1500)
        )
    )
    await bus.command("SET", bus.key("request:odd"), "nonsense", "EX", 60)
    await bus.command("CONFIG", "RESETSTAT")
    page = await find_requests(bus, limit=0)
    assert len(page.requests) == 1501
    assert [each.status for each in page.requests if each.request_id == "odd"] == ["unreadable"]
    stats = await bus.command("INFO", "commandstats")
    assert "cmdstat_keys" not in stats
    first = await find_requests(bus, limit=10)
    assert len(first.requests) == 10
    assert first.after
    await bus.command("DEL", *(await bus.command("KEYS", bus.key("request:*"))))


async def test_a_running_request_has_its_progress(bus: Bus) -> None:
    """And none when it has ended: a terminal stage closes it."""
    go_on = asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="shop:slow")
    async def slow(progress: Progress) -> None:
        await progress(0.5, {"at": "half"})
        await go_on.wait()

    async with listening(bus, [slow]):
        await bus.emit_command(STREAM, event_type="shop:slow", payload={}, request_id="r")
        row = await eventually(lambda: _progress(bus), within_s=5, why="it reports its progress")
        assert row == {"fraction": 0.5, "at": "half"}
        go_on.set()
        await eventually(lambda: bus.outcome("r"), within_s=5, why="it has ended")
        assert await _progress(bus) == {}
        assert [each.pending for each in await listeners(bus)] == [0]
        assert [each.stream for each in await streams(bus)] == [STREAM]


async def test_the_progress_of_a_claim_ends_with_it(bus: Bus) -> None:
    """A request that was given back has none until its next handler reports some."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="shop:slow")
    async def slow(command: Command, progress: Progress) -> None:
        if command.attempt == 1:
            await progress(0.5)
        begun.set()
        await go_on.wait()

    async with listening(bus, [slow], drain_s=0.01):
        await bus.emit_command(STREAM, event_type="shop:slow", payload={}, request_id="r")
        await asyncio.wait_for(begun.wait(), 5)
        await eventually(lambda: _progress(bus), within_s=5, why="it has reported")
        begun.clear()
    page = await find_requests(bus)
    assert [(each.status, each.progress) for each in page.requests] == [("pending", {})]
    async with listening(bus, [slow]):
        await asyncio.wait_for(begun.wait(), 15)
        assert await _progress(bus) == {}
        go_on.set()
        await eventually(lambda: bus.outcome("r"), within_s=5, why="it has ended")


async def test_a_request_that_waits_for_its_next_attempt_says_when_it_begins(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is pending, without the progress of the attempt that has failed."""
    policy = RetryPolicy(attempts=2, first_delay_s=60.0)

    @multi_stage_reply(stream=STREAM, event_type="shop:slow", retry=policy)
    async def slow(progress: Progress) -> None:
        await progress(0.5)
        raise OSError("not now")

    verbs = Verbs(bus, capsys)
    async with listening(bus, [slow]):
        await bus.emit_command(STREAM, event_type="shop:slow", payload={}, request_id="r")
        row = await eventually(lambda: _waiting(verbs), within_s=5, why="its attempt has failed")
    assert (row["status"], row["failures"], row["progress"]) == ("pending", 1, {})
    assert 30 < row["due"] - row["time"] < 90
    assert "due             2" in (await verbs.run("request", "show", "r"))[1]
    assert (await verbs.run("request", "cancel", "r"))[:2] == (0, "cancelled\n")


async def _waiting(verbs: Verbs) -> dict[str, Any] | None:
    row: dict[str, Any] = await verbs.json("request", "show", "r")
    return row if row["due"] else None


async def test_a_step_of_a_saga_has_a_progress_while_it_runs(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    """`saga show` has that of its request, and none when the step has ended."""
    go_on = asyncio.Event()

    @multi_stage_reply(stream="slow:commands", event_type="slow:wait")
    async def slow(progress: Progress) -> None:
        await progress(0.5)
        await go_on.wait()

    verbs = Verbs(bus, capsys)

    async def shown() -> dict[str, Any]:
        (request,) = (await verbs.json("saga", "show", "trip-2"))["requests"] or [{}]
        return {name: request.get(name) for name in ("status", "progress")}

    async with listening(bus, [slow]):
        running = asyncio.create_task(SagaRunner(bus, WAIT).run(await _start(bus, WAIT, "trip-2")))
        await eventually(
            lambda: _is_at(shown, {"status": "running", "progress": {"fraction": 0.5}}),
            within_s=5,
            why="it reports its progress",
        )
        assert "50%" in (await verbs.run("saga", "show", "trip-2"))[1]
        go_on.set()
        assert (await running).status == "completed"
        assert await shown() == {"status": "completed", "progress": {}}


async def _is_at(shown: Callable[[], Any], expected: dict[str, Any]) -> bool:
    return bool(await shown() == expected)


async def _progress(bus: Bus) -> dict[str, Any]:
    page = await find_requests(bus)
    return page.requests[0].progress if page.requests else {}
