"""`sagastream`: commands for operators.

    sagastream dead list STREAM          list dead letters, the oldest first
    sagastream dead show STREAM ID       show one of them with all fields
    sagastream dead retry STREAM ID      emit its command again, as a new request
    sagastream install                   load the function library, where only an administrator may
    sagastream acl listener              print the rights of a role, for ACL SETUSER
    sagastream memory                    show how much memory the server uses, and for what
    sagastream purge --older-than 600    drop results of ended requests before their time

REDIS_URL, or the file that REDIS_URL_FILE names, has the URL of the server; `--url` is for one
without a password. `--namespace` names the namespace; `-o json` and `-o jsonl` are for programs.
Exit codes: 0 done, 1 error, 2 usage.
"""

import argparse
import asyncio
import json
import math
import sys
from dataclasses import asdict
from typing import Any

from sagastream import rights
from sagastream.bus import Bus
from sagastream.cli import dead_letters
from sagastream.cli.install import install
from sagastream.cli.server_address import DEFAULT, server_url
from sagastream.errors import SagastreamError
from sagastream.memory import memory_status, purge
from sagastream.status import DeadLetter


def _row(letter: DeadLetter) -> dict[str, str]:
    # A field of the entry may have one of these names.
    return letter.fields | {"id": letter.letter_id, "dead_reason": letter.reason}


async def _dead(bus: Bus, options: argparse.Namespace) -> Any:
    if options.verb == "retry":
        return {"request_id": await dead_letters.retry(bus, options.stream, options.id)}
    letters = await dead_letters.find(bus, options.stream, getattr(options, "id", ""))
    rows = [_row(letter) for letter in letters]
    return rows[0] if options.verb == "show" else rows


async def _memory(bus: Bus, _options: argparse.Namespace) -> dict[str, Any]:
    found = await memory_status(bus)
    used = {"used_bytes": found.used_bytes, "limit_bytes": found.limit_bytes}
    return used | {"holders": dict(found.holders)}


async def _purge(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    return asdict(await purge(bus, older_than_s=options.older_than, dry_run=options.dry_run))


async def _install(bus: Bus, _options: argparse.Namespace) -> dict[str, Any]:
    library, is_new = await install(bus)
    return {"library": library, "is_new": is_new}


async def _acl(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    return {"user": options.user, "rules": rights.rules(options.role, bus.namespace)}


async def _run(options: argparse.Namespace) -> Any:
    async with Bus(server_url(options.url), namespace=options.namespace) as bus:
        if options.call not in {_install, _acl}:
            await bus.ping()
        return await options.call(bus, options)


def _text(options: argparse.Namespace, answer: Any) -> str:
    """An answer for people."""
    if options.call is _memory:
        limit = answer["limit_bytes"]
        share = f" of {_mb(limit)} ({answer['used_bytes'] / limit:.0%})" if limit else ", no limit"
        lines = [f"{_mb(answer['used_bytes'])}{share}"]
        lines += [f"  about {_mb(size)}: {name}" for name, size in answer["holders"].items()]
        return "\n".join(lines)
    if options.call is _install:
        return f"{answer['library']} {'is installed' if answer['is_new'] else 'was there'}"
    if options.call is _acl:
        return f"ACL SETUSER {answer['user']} {' '.join(answer['rules'])}"
    if options.call is _purge:
        verb = "would drop" if options.dry_run else "dropped"
        return f"{verb} {answer['results']} results with {_mb(answer['payload_bytes'])} of payload"
    if options.verb == "show":
        return json.dumps(answer, indent=2, sort_keys=True, ensure_ascii=False)
    if options.verb == "retry":
        return str(answer["request_id"])
    rows = (f"{row['id']}  {row.get('event_type', '?')}  {row['dead_reason']}" for row in answer)
    return "\n".join(row.replace("\n", "\\n") for row in rows)


def _printable(text: str) -> str:
    """A text with control characters as escapes: what a server sends must not steer a terminal."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, from 0")
    return seconds


def make_parser() -> argparse.ArgumentParser:
    """The parser of `sagastream` and its commands."""
    parser = argparse.ArgumentParser(prog="sagastream", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--url", help=f"the server; default: REDIS_URL, or the file REDIS_URL_FILE, or {DEFAULT}"
    )
    parser.add_argument("--namespace", default="", help="put before every key, as {namespace}:")
    commands = parser.add_subparsers(required=True)
    dead = commands.add_parser("dead", help="dead letters", description="Work with dead letters.")
    verbs = dead.add_subparsers(dest="verb", required=True)
    for verb, description in (
        ("list", "List dead letters, the oldest first."),
        ("show", "Show a dead letter with all fields."),
        ("retry", "Emit the command of a dead letter again, as a new request."),
    ):
        command = verbs.add_parser(verb, help=description, description=description)
        command.add_argument("stream", help="the command stream, such as work:commands")
        _add_output(command, _dead)
        if verb != "list":
            command.add_argument("id", help="the letter's id")
    description = "Load the function library; other users then need no right to load it."
    _add_output(commands.add_parser("install", help=description, description=description), _install)
    description = "Print the rights of a role in a namespace, for ACL SETUSER; add >PASSWORD to it."
    role = commands.add_parser("acl", help=description, description=description)
    _add_output(role, _acl)
    role.add_argument("role", choices=rights.ROLES, help="what the user does")
    role.add_argument("--user", default="NAME", help="the user's name")
    description = "Show how much memory the server uses, and about what for."
    _add_output(commands.add_parser("memory", help=description, description=description), _memory)
    description = "Drop results of ended requests before their time; their ids stay remembered."
    purging = commands.add_parser("purge", help=description, description=description)
    _add_output(purging, _purge)
    purging.add_argument(
        "--older-than",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="only of requests that ended so long ago",
    )
    purging.add_argument("--dry-run", action="store_true", help="only say what would be dropped")
    return parser


def _add_output(command: argparse.ArgumentParser, call: Any) -> None:
    command.add_argument(
        *("-o", "--output"),
        choices=("text", "json", "jsonl"),
        default="text",
        help="jsonl: one item per line",
    )
    command.set_defaults(call=call)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `sagastream`."""
    options = make_parser().parse_args(arguments)
    try:
        answer = asyncio.run(_run(options))
    except SagastreamError as error:
        print(_printable(f"sagastream: {error}"), file=sys.stderr)
        return 1
    if options.output == "text":
        text = _text(options, answer)
        if text:
            print(_printable(text))
    elif options.output == "jsonl" and isinstance(answer, list):
        for row in answer:
            print(json.dumps(row))
    else:
        print(json.dumps(answer))
    return 0
