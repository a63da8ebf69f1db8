"""`sagastream dead`: list, show and retry dead letters."""

import asyncio
import json
from typing import Any

import pytest

from sagastream import Bus, Command, Progress, multi_stage_reply
from sagastream.cli.main import main
from sagastream.testing import EmbeddedServer
from tests.listeners import listening
from tests.plain_client import add_entry

STREAM = "work:commands"


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(_command: Command, _progress: Progress) -> None:
    """Do nothing."""


@pytest.mark.blocking
def test_dead_letters_are_listed_shown_and_retried(
    server: EmbeddedServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retry` sends the command as a new request and deletes the letter, once."""

    def run(*arguments: str) -> tuple[int, str]:
        options = ["--url", server.url, "--namespace", namespace, "dead", *arguments]
        code = main(options)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    async def add_letter() -> str:
        fields = {
            "event_type": "work:do",
            "payload": '{"a":1}',
            "request_id": "r",
            "dead_reason": "HandlerLost: gone",
            "dead_entry_id": "1-1",
        }
        async with Bus(server.url, namespace=namespace) as bus:
            return await add_entry(bus, f"{STREAM}:dead", fields)

    async def reply(request_id: str) -> dict[str, Any]:
        async with Bus(server.url, namespace=namespace) as bus, listening(bus, [work]):
            return await bus.request_and_reply(STREAM, "work:do", {"a": 1}, request_id=request_id)

    letter = asyncio.run(add_letter())
    assert run("list", STREAM) == (0, f"{letter}  work:do  HandlerLost: gone\n")
    listed = json.loads(run("list", STREAM, "-o", "jsonl")[1])
    assert (listed["id"], listed["request_id"]) == (letter, "r")
    assert json.loads(run("list", STREAM, "-o", "json")[1]) == [listed]
    assert json.loads(run("show", STREAM, letter, "-o", "json")[1]) == listed
    code, shown = run("show", STREAM, letter)
    assert (code, json.loads(shown)["payload"]) == (0, '{"a":1}')
    code, request_id = run("retry", STREAM, letter)
    assert code == 0
    assert asyncio.run(reply(request_id.strip()))["status"] == "completed"
    code, error = run("retry", STREAM, letter)
    assert (code, "no letter" in error) == (1, True)


@pytest.mark.blocking
def test_what_came_from_a_server_does_not_steer_the_terminal(
    server: EmbeddedServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escapes are shown as such, in each output for people; a letter without a reason is shown."""
    evil = "\x1b]0;owned\x07\x9b2J"

    async def add_letter() -> str:
        async with Bus(server.url, namespace=namespace) as bus:
            await add_entry(bus, f"{STREAM}:dead", {"event_type": "none"})
            fields = {"event_type": evil, "payload": evil, "dead_reason": evil}
            return await add_entry(bus, f"{STREAM}:dead", fields)

    letter = asyncio.run(add_letter())
    for arguments in (["list", STREAM], ["show", STREAM, letter], ["retry", STREAM, letter]):
        main(["--url", server.url, "--namespace", namespace, "dead", *arguments])
        captured = capsys.readouterr()
        shown = captured.out + captured.err
        assert "owned" in shown or arguments[0] == "retry"
        assert all(char.isprintable() or char == "\n" for char in shown), arguments


@pytest.mark.blocking
def test_odd_letters_are_shown_as_they_are(
    server: EmbeddedServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fields with our names, an id without its second half, lines in a field, no fields of ours."""
    ids = ("1700-0", "1700-1", "1701-0")
    letters: tuple[dict[str, str], ...] = (
        {"id": "9-9", "event_type": "a\nb", "dead_entry_id": "x"},
        {"event_type": "work:do", "payload": "{}", "request_id": "odd"},
        {"x": "y"},
    )

    async def prepare() -> None:
        async with Bus(server.url, namespace=namespace) as bus:
            for letter_id, fields in zip(ids, letters, strict=True):
                await add_entry(bus, f"{STREAM}:dead", fields, entry_id=letter_id)
            await bus.command("SET", bus.key("text:dead"), "none", "EX", 60)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--url", server.url, "--namespace", namespace, "dead", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    asyncio.run(prepare())
    listed = run("list", STREAM)[1].splitlines()
    assert listed == ["1700-0  a\\nb  unknown", "1700-1  work:do  unknown", "1701-0  ?  unknown"]
    assert json.loads(run("show", STREAM, "1700", "-o", "json")[1])["id"] == "1700-0"
    assert "event_type" not in run("retry", STREAM, "1700")[1]
    assert run("retry", STREAM, "1700-1")[0] == 0
    for arguments in (
        ("list", "text"),
        ("show", "text", "1-1"),
        ("show", STREAM, "1700-9"),
        ("show", STREAM, "\u0661\u0662"),
        ("retry", STREAM, f"{2**64}-0"),
        ("retry", STREAM, "1700"),
        ("retry", STREAM, "1701-0"),
    ):
        code, out, error = run(*arguments)
        assert (code, out, error.count("\n")) == (1, "", 1), (arguments, error)
