"""`sagastream`: commands for operators.

    sagastream dead list STREAM          list dead letters, the oldest first
    sagastream dead show STREAM ID       show one of them with all fields
    sagastream dead retry STREAM ID      emit its command again, as a new request

`--url` names the server, `--namespace` the namespace; `-o json` and `-o jsonl` are for programs.
Exit codes: 0 done, 1 error, 2 usage.
"""

import argparse
import asyncio
import json
import sys
from typing import Any

from sagastream.bus import Bus
from sagastream.cli import dead_letters
from sagastream.errors import SagastreamError
from sagastream.status import DeadLetter


def _row(letter: DeadLetter) -> dict[str, str]:
    return {"id": letter.letter_id, "dead_reason": letter.reason} | letter.fields


async def _run(options: argparse.Namespace) -> Any:
    async with Bus(options.url, namespace=options.namespace) as bus:
        await bus.ping()
        if options.verb == "retry":
            return {"request_id": await dead_letters.retry(bus, options.stream, options.id)}
        letters = await dead_letters.find(bus, options.stream, getattr(options, "id", ""))
        return [_row(letter) for letter in letters]


def make_parser() -> argparse.ArgumentParser:
    """The parser of `sagastream` and its commands."""
    parser = argparse.ArgumentParser(prog="sagastream", description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="redis://127.0.0.1:6379/0", help="the server")
    parser.add_argument("--namespace", default="", help="put before every key, as {namespace}:")
    dead = parser.add_subparsers(required=True).add_parser(
        "dead", help="dead letters", description="Work with dead letters."
    )
    verbs = dead.add_subparsers(dest="verb", required=True)
    for verb, description in (
        ("list", "List dead letters, the oldest first."),
        ("show", "Show a dead letter with all fields."),
        ("retry", "Emit the command of a dead letter again, as a new request."),
    ):
        command = verbs.add_parser(verb, help=description, description=description)
        command.add_argument("stream", help="the command stream, such as work:commands")
        command.add_argument(
            *("-o", "--output"),
            choices=("text", "json", "jsonl"),
            default="text",
            help="jsonl: one item per line",
        )
        if verb != "list":
            command.add_argument("id", help="the letter's id")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `sagastream`."""
    options = make_parser().parse_args(arguments)
    try:
        answer = asyncio.run(_run(options))
    except SagastreamError as error:
        print(f"sagastream: {error}", file=sys.stderr)
        return 1
    if options.output == "jsonl" and options.verb == "list":
        for letter in answer:
            print(json.dumps(letter))
    elif options.output != "text":
        print(json.dumps(answer[0] if options.verb == "show" else answer))
    elif options.verb == "list":
        for letter in answer:
            print(f"{letter['id']}  {letter.get('event_type', '?')}  {letter['dead_reason']}")
    elif options.verb == "show":
        print(json.dumps(answer[0], indent=2, sort_keys=True, ensure_ascii=False))
    else:
        print(answer["request_id"])
    return 0
