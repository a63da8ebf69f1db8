"""The parser of `sagastream`: its verbs, their options, and an example of each."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

from sagastream import rights
from sagastream.bus import Bus
from sagastream.cli import (
    dead_letters,
    flow_verbs,
    overview,
    page_verb,
    request_verbs,
    running_verbs,
    saga_verbs,
    schedule_verbs,
)
from sagastream.cli.arguments import count, identity, json_object, page, seconds
from sagastream.cli.install import install
from sagastream.cli.server_address import DEFAULT
from sagastream.memory import memory_status, purge

DESCRIPTION = "Run handlers, and see and change what is on a server."
EXIT_CODES = (
    (0, "done"),
    (1, "error: no server, nothing with that id, or it cannot be done; `doctor` found a problem"),
    (2, "usage: an unknown option, an invalid value or URL, or a beginning that several ids have"),
    (130, "ended by Ctrl-C"),
    (141, "the program that reads the output has ended"),
)

# Makes the answer of a verb.
Call = Callable[[Bus, argparse.Namespace], Any]
AsText = Callable[[Any], str]


class OneLineParser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class Verb:
    """Adds the arguments of one verb.

    Args:
        parser: Its parser.
        example: A command line, without the name of the program.
        call: Makes its answer; None if the verb does not ask a server.
        as_text: Makes text for people from its answer.
    """

    def __init__(
        self, parser: argparse.ArgumentParser, example: str, call: Call | None, as_text: AsText
    ) -> None:
        self.parser = parser
        parser.set_defaults(call=call, as_text=as_text, example=f"sagastream {example}")
        parser.epilog = f"Example: sagastream {example}"
        if call:
            self.option(
                *("-o", "--output"),
                choices=("text", "json", "jsonl"),
                default="text",
                help="jsonl: one item per line",
            )

    def argument(self, name: str, help_text: str, **options: Any) -> "Verb":
        """Add a positional argument."""
        self.parser.add_argument(name, help=help_text, **options)
        return self

    def option(self, *names: str, **options: Any) -> "Verb":
        """Add an option."""
        self.parser.add_argument(*names, **options)
        return self

    def paged(self, kind: Callable[[str], Any], default: Any) -> "Verb":
        """Add the options of a list that may be long."""
        self.option(
            *("--limit",), type=count, default=50, help="at most this many items; 0 for all"
        )
        return self.option(
            *("--after",), type=kind, default=default, help="the next page, as the one before says"
        )

    def grouped(self) -> "Verb":
        """Add the option of the consumer group."""
        return self.option(
            *("--group",), default="sagastream", help="the consumer group of the listeners"
        )


def make_parser() -> argparse.ArgumentParser:
    """The parser of `sagastream` and its commands."""
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES)
    parser = OneLineParser(
        prog="sagastream",
        description=DESCRIPTION,
        epilog=f"Exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--url", help=f"the server; default: REDIS_URL, or the file REDIS_URL_FILE, or {DEFAULT}"
    )
    parser.add_argument("--namespace", default="", help="put before every key, as {namespace}:")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    running_verbs.add_verbs(_adder(commands))
    page_verb.add_verb(_adder(commands))
    _add_overview(_adder(commands))
    _add_requests(_group(commands, "request", "Work with requests."))
    saga_verbs.add_verbs(
        _group(commands, "saga", "Work with sagas."),
    )
    schedule_verbs.add_verbs(
        _group(commands, "schedule", "Work with schedules: commands that are emitted repeatedly."),
    )
    _add_dead_letters(_group(commands, "dead", "Work with dead letters."))
    flow_verbs.add_pauses(_adder(commands))
    flow_verbs.add_queues(_group(commands, "queue", "See what waits."))
    _add_listeners(_group(commands, "listener", "Work with listeners."))
    _add_upkeep(_adder(commands))
    return parser


# Adds a verb: name, description, example, call and text.
Add = Callable[..., Verb]


def _adder(commands: Any) -> Add:
    def add(
        name: str, description: str, example: str, call: Call | None = None, as_text: AsText = str
    ) -> Verb:
        made = commands.add_parser(name, help=description, description=description)
        return Verb(made, example, call, as_text)

    return add


def _group(commands: Any, name: str, description: str) -> Add:
    parser = commands.add_parser(name, help=description, description=description)
    return _adder(parser.add_subparsers(required=True, dest="verb", metavar="VERB"))


def _add_overview(add: Add) -> None:
    add(
        "status",
        "Show each command stream: its depth, its listeners, and the age of its oldest command.",
        "status",
        overview.status,
        overview.text_of_status,
    ).grouped()
    add(
        "doctor",
        "Check the server and what is on it; exit with 1 if there is a problem.",
        "doctor -o jsonl",
        overview.doctor,
        overview.text_of_checks,
    ).grouped()


def _add_listeners(add: Add) -> None:
    add(
        "list",
        "List live listeners, what they handle, and how many commands they have read.",
        "listener list -o jsonl",
        overview.list_listeners,
        overview.text_of_listeners,
    ).grouped()


def _add_requests(add: Add) -> None:
    listing = add(
        "list",
        "List requests whose records are kept.",
        "request list --status failed --limit 20",
        request_verbs.list_requests,
        request_verbs.text_of_list,
    )
    listing.option("--status", choices=request_verbs.STATUSES, help="only with this status")
    listing.option("--event-type", help="only of this event type")
    listing.option("--saga", metavar="ID", default="", help="only of this saga; its id may be cut")
    listing.option(
        "--correlation",
        metavar="ID",
        default="",
        help="only with this correlation id, which may be cut",
    )
    listing.paged(page, "")
    for name, description, example, call in (
        ("show", "Show a request.", "request show order-7", request_verbs.show_request),
        ("cancel", "Cancel a request.", "request cancel order-9", request_verbs.cancel_request),
        (
            "retry",
            "Emit the command of a request that has failed or was cancelled again, as a new one.",
            "request retry order-7",
            request_verbs.retry,
        ),
    ):
        add(name, description, example, call, request_verbs.text_of).argument(
            "id", "the request's id, or its beginning if no other one begins so", type=identity
        )
    send = add(
        "send",
        "Emit a command, wait for its end, and print its result.",
        """request send shop:commands shop:order '{"count": 2}'""",
        request_verbs.send_request,
        request_verbs.text_of_result,
    )
    send.argument("stream", "the command stream, such as shop:commands")
    send.argument("event_type", "the event type, such as shop:order")
    send.argument("payload", "a JSON object", nargs="?", type=json_object, default="{}")
    send.option("--timeout", type=seconds, default=30.0, help="how long to wait, in seconds")
    send.option("--id", metavar="ID", help="the request's id; a new one if it is not given")


def _add_dead_letters(add: Add) -> None:
    stream = "the command stream, such as shop:commands"
    listing = add(
        "list",
        "List dead letters, the oldest first.",
        "dead list shop:commands",
        dead_letters.list_letters,
        dead_letters.text_of_list,
    )
    listing.argument("stream", f"{stream}; all if it is not given", nargs="?", default="")
    listing.option("--limit", type=count, default=0, help="at most this many; 0 for all")
    letter = "1764000000000-0"
    for name, description, call in (
        ("show", "Show a dead letter with all fields.", dead_letters.show_letter),
        (
            "retry",
            "Emit the command of a dead letter again, as a new request.",
            dead_letters.retry_letter,
        ),
        ("drop", "Delete a dead letter.", dead_letters.drop_letter),
    ):
        verb = add(
            name, description, f"dead {name} shop:commands {letter}", call, dead_letters.text_of
        )
        verb.argument("stream", stream)
        verb.argument(
            "id", "the letter's id, or its beginning if no other one begins so", type=identity
        )


def _add_upkeep(add: Add) -> None:
    add(
        "memory",
        "Show how much memory the server uses, and about what for.",
        "memory",
        _memory,
        _text_of_memory,
    )
    purging = add(
        "purge",
        "Drop results of ended requests before their time; their ids stay remembered.",
        "purge --older-than 600 --dry-run",
        _purge,
    )
    purging.option(
        "--older-than",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="only of requests that ended so long ago",
    )
    purging.option("--dry-run", action="store_true", help="only say what would be dropped")
    add(
        "install",
        "Load the function library; other users then need no right to load it.",
        "install",
        _install,
        lambda found: f"{found['library']} {'is installed' if found['is_new'] else 'was there'}",
    )
    roles = add(
        "acl",
        "Print the rights of a role in a namespace, for ACL SETUSER; add >PASSWORD to it.",
        "--namespace shop acl listener --user worker",
        _acl,
        lambda found: f"ACL SETUSER {found['user']} {' '.join(found['rules'])}",
    )
    roles.argument("role", "what the user does", choices=rights.ROLES)
    roles.option("--user", default="NAME", help="the user's name")


async def _memory(bus: Bus, _options: argparse.Namespace) -> dict[str, Any]:
    found = await memory_status(bus)
    used = {"used_bytes": found.used_bytes, "limit_bytes": found.limit_bytes}
    return used | {"holders": dict(found.holders)}


def _text_of_memory(answer: dict[str, Any]) -> str:
    limit = answer["limit_bytes"]
    share = f" of {_mb(limit)} ({answer['used_bytes'] / limit:.0%})" if limit else ", no limit"
    lines = [f"{_mb(answer['used_bytes'])}{share}"]
    lines += [f"  about {_mb(size)}: {name}" for name, size in answer["holders"].items()]
    return "\n".join(lines)


async def _purge(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    verb = "would drop" if options.dry_run else "dropped"
    options.as_text = partial(_text_of_purge, verb)
    return asdict(await purge(bus, older_than_s=options.older_than, dry_run=options.dry_run))


def _text_of_purge(verb: str, answer: dict[str, Any]) -> str:
    return f"{verb} {answer['results']} results with {_mb(answer['payload_bytes'])} of payload"


async def _install(bus: Bus, _options: argparse.Namespace) -> dict[str, Any]:
    library, is_new = await install(bus)
    return {"library": library, "is_new": is_new}


async def _acl(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    return {"user": options.user, "rules": rights.rules(options.role, bus.namespace)}


# Verbs that do not check the server first: they prepare it, or do not ask it.
WITHOUT_CHECK: Sequence[Call] = (_install, _acl)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
