"""`sagastream`: what an operator needs at night.

    sagastream dead list STREAM          dead letters, oldest first
    sagastream dead show STREAM ID       one of them, whole
    sagastream dead retry STREAM ID      its command again, as a new request

`--url` says where the server is, `--namespace` which one, `-o json` or `-o jsonl` that a program
reads it. Exit codes: 0 done, 1 error, 2 usage.
"""

import argparse
import asyncio
import json
import sys
import uuid
from typing import Any

from sagastream._codec.entries import decode_command
from sagastream.bus import Bus
from sagastream.errors import InvalidMessage, SagastreamError

_LETTER_FIELDS = (b"dead_reason", b"dead_entry_id")

Letter = tuple[str, dict[bytes, bytes]]


class NoSuchLetter(SagastreamError):
    """There is no dead letter of that id."""


async def dead_letters(bus: Bus, stream: str, letter_id: str = "") -> list[Letter]:
    """The dead letters of a command stream, or the one with that id.

    Raises:
        NoSuchLetter: There is none with that id.
    """
    first, last = (letter_id, letter_id) if letter_id else ("-", "+")
    found = await bus.session().connection.call("XRANGE", bus.key(f"{stream}:dead"), first, last)
    if letter_id and not found:
        raise NoSuchLetter(f"{stream}:dead has no letter {letter_id}; see: dead list {stream}")
    return [(entry_id.decode(), fields) for entry_id, fields in found]


async def retry(bus: Bus, stream: str, letter_id: str) -> str:
    """Emit a dead letter's command again; asked twice, it is emitted once.

    The old request has ended for ever: this is a new one, with an id that follows from the
    letter's. The letter goes when the command is in the stream.

    Returns:
        The new request's id.

    Raises:
        NoSuchLetter: There is none with that id.
        InvalidMessage: The letter is no command; retrying cannot help.
    """
    ((_, fields),) = await dead_letters(bus, stream, letter_id)
    raw = {name: value for name, value in fields.items() if name not in _LETTER_FIELDS}
    command = decode_command(raw, stream=stream, entry_id=letter_id, max_bytes=bus.max_payload)
    request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{command.request_id}#{letter_id}"))
    await bus.emit_command(
        stream,
        event_type=command.event_type,
        payload=command.payload,
        correlation_id=command.correlation_id,
        saga_id=command.saga_id,
        request_id=request_id,
        reply_stream=command.reply_stream,
    )
    await bus.session().connection.call("XDEL", bus.key(f"{stream}:dead"), letter_id)
    return request_id


def _text(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in fields.items()
    }


async def _do(options: argparse.Namespace) -> Any:
    async with Bus(options.url, namespace=options.namespace) as bus:
        await bus.ping()
        if options.verb == "retry":
            return {"request_id": await retry(bus, options.stream, options.id)}
        letters = await dead_letters(bus, options.stream, getattr(options, "id", ""))
        return [{"id": letter_id} | _text(fields) for letter_id, fields in letters]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sagastream", description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="redis://127.0.0.1:6379/0", help="the server")
    parser.add_argument("--namespace", default="", help="before every key, as {namespace}:")
    dead = parser.add_subparsers(required=True).add_parser("dead", help="dead letters")
    verbs = dead.add_subparsers(dest="verb", required=True)
    for verb, what in (("list", "all"), ("show", "one, whole"), ("retry", "one, again")):
        command = verbs.add_parser(verb, help=what)
        command.add_argument("stream", help="the command stream, such as work:commands")
        command.add_argument(
            *("-o", "--output"),
            choices=("text", "json", "jsonl"),
            default="text",
            help="jsonl: a line an item",
        )
        if verb != "list":
            command.add_argument("id", help="the letter's id")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `sagastream`."""
    options = _parser().parse_args(arguments)
    try:
        answer = asyncio.run(_do(options))
    except (SagastreamError, InvalidMessage) as error:
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
