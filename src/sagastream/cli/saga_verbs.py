"""`sagastream saga`: list, show, signal, resume, compensate and check sagas."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any, get_args

from sagastream.bus import Bus
from sagastream.cli.arguments import count, identity, json_object
from sagastream.cli.output import fields, percent, print_hint, table
from sagastream.cli.serving import Found
from sagastream.errors import SagaError
from sagastream.inspection import read_request
from sagastream.message import error_text
from sagastream.saga import Saga, signal_saga
from sagastream.saga.administration import (
    check_sagas,
    compensate_saga,
    find_sagas,
    open_versions,
    resolve_saga,
    resume_saga,
)
from sagastream.saga.compatibility import Incompatibility
from sagastream.saga.state import Journal, JournalEntry, SagaStatus
from sagastream.saga.walk import open_waits

STATUSES: tuple[str, ...] = get_args(SagaStatus)
_COLUMNS = ("saga_id", "saga", "status", "step", "waits_for", "started", "error")
_STEP_COLUMNS = ("step", "direction", "attempt", "status", "progress", "request_id", "error")


def add_verbs(add: Callable[..., Any]) -> None:
    """Add the verbs."""
    listing = add(
        "list",
        "List sagas: stuck ones first, then running ones, then ended ones.",
        "saga list --status stuck -o json",
        list_sagas,
        text_of_list,
    )
    listing.option("--status", choices=STATUSES, help="only with this status")
    listing.option("--name", default="", help="only of the declaration with this name")
    listing.paged(count, 0)
    signalling = """saga signal trip-2 approval --payload '{"by": "ada"}'"""
    for name, description, example, call in (
        ("show", "Show a saga and its requests.", "saga show trip-1", show_saga),
        ("signal", "Send an event to a saga that waits for it, or will.", signalling, signal),
        (
            "resume",
            "Let a stuck saga try its compensations again.",
            "saga resume trip-1",
            resume,
        ),
        (
            "compensate",
            "Undo the steps of a running saga, in reverse; a runner of the saga does it.",
            "saga compensate trip-2 --reason 'the customer called'",
            compensate,
        ),
    ):
        verb = add(name, description, example, call, text_of)
        verb.argument(
            "id", "the saga's id, or its beginning if no other one begins so", type=identity
        )
        if name == "signal":
            verb.argument("name", "the name of the wait, such as approval", type=identity)
            verb.option("--payload", type=json_object, help="a JSON object; {} if it is not given")
        if name == "compensate":
            verb.option("--reason", default="by an operator", help="why, for its journal")
    checking = add(
        "check",
        "Say what breaks for open sagas when the declarations of modules are deployed, and exit with "
        "1 if something does; without modules, list the versions of open sagas.",
        "saga check",
        check,
        text_of_check,
    )
    checking.argument("modules", "a module with sagas, such as shop.handlers", nargs="*")


async def list_sagas(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A page of sagas, those that are stuck first."""
    statuses = frozenset({options.status} if options.status else ())
    page = await find_sagas(
        bus, name=options.name, statuses=statuses, limit=options.limit, after=options.after
    )
    if page.after:
        print_hint(f"there may be more: add --after {page.after}")
    return [_row(journal) for journal in page.journals]


async def show_saga(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """A saga with its requests."""
    journal = await resolve_saga(bus, options.id)
    requests = [await _request(bus, entry) for entry in journal.entries]
    return _row(journal) | {"input": journal.input, "requests": requests}


async def signal(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Send an event to a wait of a saga.

    Raises:
        SagaError: It has ended, or the event was sent before with another payload.
    """
    journal = await resolve_saga(bus, options.id)
    waits = {entry.step: entry.status for entry in journal.entries if entry.kind == "wait"}
    if journal.status != "running":
        raise SagaError(f"saga {journal.saga_id} is {journal.status}; it waits for no event")
    if options.name in waits and waits[options.name] != "waiting":
        raise SagaError(f"saga {journal.saga_id}: its wait {options.name} has ended already")
    payload = options.payload or {}
    await signal_saga(bus, journal.saga_id, options.name, payload)
    if options.name not in waits:
        print_hint(f"the saga does not wait for {options.name} now; the event is kept for 7 days")
    return _row(journal) | {"signal": options.name, "payload": payload}


async def check(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What breaks for open sagas when the declarations of modules are deployed."""
    if not options.modules:
        return [_check_row(each, "ok") for each in await open_versions(bus)]
    found = await asyncio.to_thread(_declared, options.modules)
    declarations = [saga for versions in found.values() for saga in versions]
    problems = await check_sagas(bus, declarations)
    return [_check_row(each, "problem") for each in problems]


def _check_row(found: Incompatibility, verdict: str) -> dict[str, Any]:
    return {
        "saga": found.saga,
        "version": found.version,
        "sagas": len(found.saga_ids),
        "first": found.saga_ids[0],
        "verdict": verdict,
        "problem": found.problem,
    }


def _declared(modules: list[str]) -> dict[str, list[Saga]]:
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as `python -m` does
    return Found(modules).sagas


async def resume(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Let a stuck saga try its compensations again.

    Raises:
        SagaError: It has ended, and is not stuck.
    """
    journal = await resolve_saga(bus, options.id)
    if journal.is_over and journal.status != "stuck":
        raise SagaError(f"saga {journal.saga_id} has {journal.status}: there is nothing to resume")
    return _row(await resume_saga(bus, journal))


async def compensate(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Start compensating a running saga.

    Raises:
        SagaError: It does not run.
    """
    journal = await resolve_saga(bus, options.id)
    if journal.status != "running":
        raise SagaError(
            f"saga {journal.saga_id} is {journal.status}; only a running one can be compensated"
        )
    return _row(await compensate_saga(bus, journal, options.reason))


def text_of_list(rows: list[dict[str, Any]]) -> str:
    """The table."""
    return table(rows, _COLUMNS)


def text_of_check(rows: list[dict[str, Any]]) -> str:
    """A line for each problem."""
    lines = []
    for row in rows:
        problem = f": {row['problem']}" if row["problem"] else ""
        lines.append(
            f"{row['saga']} version {row['version']}{problem} ({row['sagas']} open, such as "
            f"{row['first']})"
        )
    return "\n".join(lines)


def text_of(row: dict[str, Any]) -> str:
    """One saga, with a table of its requests."""
    if "signal" in row:
        return f"{row['saga_id']} has got {row['signal']}"
    if "requests" not in row:
        return f"{row['saga_id']} is {row['status']}"
    facts = {name: value for name, value in row.items() if name != "requests"}
    steps = [each | {"progress": percent(each["progress"])} for each in row["requests"]]
    return f"{fields(facts)}\n\n{table(steps, _STEP_COLUMNS)}".rstrip()


def _row(journal: Journal) -> dict[str, Any]:
    last = journal.entries[-1] if journal.entries else None
    return {
        "saga_id": journal.saga_id,
        "saga": journal.saga,
        "status": journal.status,
        "version": journal.version,
        "step": _step_of(last) if last else "",
        "waits_for": [entry.step for entry in open_waits(journal)],
        "started": journal.started,
        "correlation_id": journal.correlation_id,
        "error": error_text(journal.error),
    }


async def _request(bus: Bus, entry: JournalEntry) -> dict[str, Any]:
    """A request of a saga. Only one that runs has a progress: its end closes it."""
    status, progress = str(entry.status), {}
    if entry.status == "intended" and (request := await read_request(bus, entry.request_id)):
        status, progress = request.status, request.progress
    return {
        "step": entry.step,
        "direction": entry.direction,
        "attempt": entry.attempt,
        "status": status,
        "progress": progress,
        "request_id": entry.request_id if entry.kind == "request" else "",
        "started": entry.started,
        "ended": entry.ended,
        "error": error_text(entry.error),
        "payload": entry.payload,
        "result": entry.result,
    }


def _step_of(entry: JournalEntry) -> str:
    return entry.step if entry.direction == "forward" else f"undo {entry.step}"
