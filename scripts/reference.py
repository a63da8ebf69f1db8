#!/usr/bin/env python3
"""Writes docs/reference/configuration.md and cli.md from the code; with --check, says whether they differ."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.cli import app, orchestrator_app
from app.config import Settings
from sagastream import cli

PLACE = ROOT / "docs" / "reference"
_CONFIGURATION = """\
# Settings

Mission control reads its settings from the environment, each from the variable of its name. `mission doctor` says what
does not fit; a value that is no good ends a command with exit code 2 and the variable's name. The library itself reads
no environment: what it can be told stands at [`Bus`](api.md#sagastream.Bus) and
[`CommandListener`](api.md#sagastream.CommandListener). The standard `OTEL_*` variables mean what OpenTelemetry says;
those that are read here too are in the table.

This page is written by `scripts/reference.py` from `app/config.py`.

| variable | default | meaning |
|---|---|---|
"""
_CLI = """\
# Commands

`mission` is mission control, `sagastream` the library's own command. Both write results to standard output and all else
to standard error. `-o json` gives one JSON value, `-o jsonl` a line an item.

This page is written by `scripts/reference.py` from the programs themselves.

## Exit codes

| code | |
|---|---|
| 0 | done; of a mission: completed |
| 1 | error, such as a server that cannot be reached |
| 2 | usage: an option, a setting or a map that is no good, a number of robots that is not 1 to 64 |
| 3 | a step failed, or the mission was cancelled; all was undone |
| 4 | a compensation is stuck |
| 5 | not done in time, all was undone |
| 130 | interrupted, all was undone |

`sagastream` has 0, 1 and 2 alone.

"""


def _default(value: Any) -> str:
    if value in {None, "", PydanticUndefined}:
        return "–"
    if isinstance(value, Path):
        value = value.relative_to(ROOT)
    return f"`{value}`"


def configuration() -> str:
    """The page of settings."""
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
        yield "| option | | default |\n|---|---|---|\n"
        yield from rows
    yield "\n"


def _mission() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    yield f"## mission\n\n{group.help}\n\n"
    for name, command in sorted(group.commands.items()):
        yield from _verb(f"mission {name}", command)
    yield from _verb("python -m app.orchestrator", typer.main.get_command(orchestrator_app))


def _children(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, Any]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, child in action.choices.items():
                yield name, str(helps[name]), child


def _sagastream() -> Iterator[str]:
    parser = cli._parser()
    yield f"## sagastream\n\n{parser.description}\n\n"
    yield "| option | | default |\n|---|---|---|\n"
    yield from _arguments(parser)
    for name, _, group in _children(parser):
        for verb, what, child in _children(group):
            yield f"\n### `sagastream {name} {verb}`\n\n{what[0].upper()}{what[1:]}.\n\n"
            yield "| option | | default |\n|---|---|---|\n"
            yield from _arguments(child)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.help and action.dest != "help":
            names = action.option_strings or [action.dest.upper()]
            default = _default(action.default) if action.option_strings else "required"
            chosen = f"{', '.join(action.choices)}; " if action.choices else ""
            names_shown = ", ".join(f"`{name}`" for name in names)
            yield f"| {names_shown} | {chosen}{action.help} | {default} |\n"


def written() -> dict[str, str]:
    """Every page by the name of its file."""
    commands = "".join([_CLI, *_mission(), *_sagastream()])
    return {"configuration.md": configuration(), "cli.md": commands}


def drift(place: Path) -> list[str]:
    """The files that are not as this script would write them."""
    return sorted(
        name
        for name, text in written().items()
        if not (place / name).exists() or (place / name).read_text() != text
    )


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if some differ")
    if parser.parse_args().check:
        differ = drift(PLACE)
        print("\n".join(f"{name} is not what scripts/reference.py writes" for name in differ))
        return 1 if differ else 0
    for name, text in written().items():
        (PLACE / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
