#!/usr/bin/env python3
"""Writes docs/reference/configuration.md, cli.md and rights.md from the code; with --check, reports differences."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic_core import PydanticUndefined

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app import mission_rights
from app.cli.main import app
from app.config import ROOT, Settings
from app.orchestrator import orchestrator_app
from sagastream import rights
from sagastream.cli.parser import EXIT_CODES, make_parser

PLACE = ROOT / "docs" / "reference"
_CONFIGURATION = """\
# Settings

Mission control reads its settings from environment variables. `mission doctor` checks that they fit together. An invalid
value ends a command with exit code 2 and the name of the variable. The library itself does not read the environment, only its
command reads `REDIS_URL` and `REDIS_URL_FILE`; its options are the arguments of [`Bus`](api/requests.md#sagastream.Bus) and [`CommandListener`](api/handlers.md#sagastream.CommandListener). The
standard `OTEL_*` variables have the meaning that OpenTelemetry gives them; the table lists those that mission control reads.

`scripts/reference.py` generates this page from `app/config.py`.

| variable | default | meaning |
|---|---|---|
"""
_CLI = """\
# Commands

`mission` is the command of mission control, `sagastream` that of the library. Both write results to standard output and
everything else to standard error. `-o json` prints one JSON value, `-o jsonl` one line per item.

`scripts/reference.py` generates this page from the programs' own help.

## Exit codes

| code | meaning |
|---|---|
| 0 | success; a mission completed |
| 1 | error, such as an unreachable server |
| 2 | usage error: an invalid option, setting or map, or a number of robots outside 1 to 64 |
| 3 | a step failed, or the mission was cancelled; its steps were undone |
| 4 | a compensation is stuck |
| 5 | timeout; the mission's steps were undone |
| 130, 143, 129 | ended by Ctrl-C, by SIGTERM, or because its terminal was closed |

After Ctrl-C a command stops what it has started, and ends within 5 s; `mission run` undoes the mission first. At the second
Ctrl-C it kills what it has started, and ends at once.

"""


_OF_LIBRARY = """\
An id is never cut in an output. A verb that takes the id of a request, a saga or a dead letter also takes its beginning, if
no other id begins so. Lists read the server in small steps, which block nobody else. What is wrong is one line on standard
error, and an exit code:

"""
_RIGHTS = """\
# Rights

What the user of each role may do on the server, within its namespace. `sagastream acl ROLE` prints it for `ACL SETUSER`; see
[how to use it](../howto/own-server.md#limit-a-users-rights). Tests let real users with these rights do what each role must
do, and what it must not. `scripts/reference.py` generates this page from `src/sagastream/rights.py` and `app/mission_rights.py`.

"""
_RIGHTS_OF_MISSIONS = """
## Mission control

What the user of each process of mission control may do within its namespace: `mission acl ROLE` prints it. `page` is
`mission serve`, `operator` are the other commands, and `workers` are `mission workers` and `mission run`, which start the
others. What is marked `broker` may be used only on the keys of Celery's broker in that namespace: {keys}.

"""


def rights_page() -> str:
    """Return the page of rights."""
    of_library: dict[str, dict[str, str]] = {
        role: dict.fromkeys(rights.commands(role), "yes") for role in rights.ROLES
    }
    of_missions: dict[str, dict[str, str]] = {
        role: dict.fromkeys(mission_rights.IN_BROKER[role], "broker")
        | dict.fromkeys(mission_rights.commands(role), "yes")
        for role in mission_rights.ROLES
    }
    keys = ", ".join(f"`{pattern}`" for pattern in mission_rights.BROKER_KEYS)
    missions = _RIGHTS_OF_MISSIONS.format(keys=keys)
    return _RIGHTS + _table(of_library) + missions + _table(of_missions)


def _table(roles: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["| command | " + " | ".join(roles) + " |", "|---|" + "---|" * len(roles)]
    for name in sorted(set[str]().union(*roles.values())):
        marks = " | ".join(marked.get(name, "") for marked in roles.values())
        lines.append(f"| `{name.replace('|', ' ')}` | {marks} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value in {None, "", PydanticUndefined}:
        return "none"
    if isinstance(value, Path):
        value = value.relative_to(ROOT)
    return f"`{value}`"


def configuration() -> str:
    """Return the page of settings."""
    rows = [
        f"| `{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return _CONFIGURATION + "\n".join(rows) + "\n"


def _flags(option: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    if option.param_type_name == "argument":
        names = [option.name.upper()]
    return ", ".join(f"`{name}`" for name in names)


def _verb(name: str, command: Any) -> Iterator[str]:
    says, _, example = " ".join(command.help.split()).partition("Example: ")
    yield f"### `{name}`\n\n{says.strip()}\n\n"
    if example:
        yield f"```sh\n{example}\n```\n\n"
    rows = [
        f"| {_flags(option)} | {getattr(option, 'help', '')} | "
        f"{'required' if option.required else _default(option.default)} |\n"
        for option in command.params
    ]
    if rows:
        yield "| option | meaning | default |\n|---|---|---|\n"
        yield from rows
    yield "\n"


def _mission() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    yield f"## mission\n\n{group.help}\n\n"
    for name, command in sorted(group.commands.items()):
        yield from _verb(f"mission {name}", command)
    yield from _verb("python -m app.orchestrator", typer.main.get_command(orchestrator_app))


def _sagastream(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the arguments of a command and of its subcommands.

    They are read from the parser, because argparse formats its help differently in each Python.
    """
    verbs: list[argparse.ArgumentParser] = []
    rows = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            verbs += dict.fromkeys(action.choices.values())
        elif not isinstance(action, argparse._HelpAction):  # noqa: SLF001
            flags = action.option_strings or [action.dest.upper()]
            names = ", ".join(f"`{flag}`" for flag in flags)
            default = _default(action.default) if action.option_strings else "required"
            rows.append(f"| {names} | {action.help} | {default} |\n")
    yield f"\n### `{parser.prog.replace(' [-h]', '')}`\n\n"
    yield f"{parser.description}\n"
    if example := parser.get_default("example"):
        yield f"\n```sh\n{example}\n```\n"
    if rows:
        yield "\n| option | meaning | default |\n|---|---|---|\n"
        yield from rows
    for verb in verbs:
        yield from _sagastream(verb)


def written() -> dict[str, str]:
    """Return every page by the name of its file."""
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES)
    of_library = f"## sagastream\n\n{_OF_LIBRARY}| code | meaning |\n|---|---|\n{codes}"
    listed = "".join([_CLI, *_mission(), of_library, *_sagastream(make_parser())])
    return {"configuration.md": configuration(), "cli.md": listed, "rights.md": rights_page()}


def drift(place: Path) -> list[str]:
    """Return the names of the files that differ from what this script would write."""
    return sorted(
        name
        for name, text in written().items()
        if not (place / name).exists() or (place / name).read_text() != text
    )


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a file differs"
    )
    if parser.parse_args().check:
        differ = drift(PLACE)
        print("\n".join(f"{name} differs: run scripts/reference.py" for name in differ))
        return 1 if differ else 0
    for name, text in written().items():
        (PLACE / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
