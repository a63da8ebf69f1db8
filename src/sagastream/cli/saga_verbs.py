"""`sagastream saga`: list, show, resume and compensate sagas."""

import argparse
from typing import Any, get_args

from sagastream.bus import Bus
from sagastream.cli.output import fields, percent, print_hint, table
from sagastream.errors import SagaError
from sagastream.inspection import read_request
from sagastream.message import error_text
from sagastream.saga.administration import compensate_saga, find_sagas, resolve_saga, resume_saga
from sagastream.saga.state import Journal, JournalEntry, SagaStatus

STATUSES: tuple[str, ...] = get_args(SagaStatus)
_COLUMNS = ("saga_id", "saga", "status", "step", "started", "error")
_STEP_COLUMNS = ("step", "direction", "attempt", "status", "progress", "request_id", "error")


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


def text_of(row: dict[str, Any]) -> str:
    """One saga, with a table of its requests."""
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
        "step": _step_of(last) if last else "",
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
        "request_id": entry.request_id,
        "started": entry.started,
        "ended": entry.ended,
        "error": error_text(entry.error),
        "payload": entry.payload,
        "result": entry.result,
    }


def _step_of(entry: JournalEntry) -> str:
    return entry.step if entry.direction == "forward" else f"undo {entry.step}"
