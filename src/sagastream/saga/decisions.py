"""Decide what a saga needs no request for: skipped steps, items of lists, waits, inputs of children.

Pure functions. A decision is an entry of the journal, so every runner goes on from the same one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, assert_never

from sagastream._codec.validation import check_name
from sagastream.errors import SagaError
from sagastream.saga.definition import Child, ForEach, Saga, Step, WaitFor
from sagastream.saga.journal_json import as_json
from sagastream.saga.state import Journal, JournalEntry, request_id_of
from sagastream.saga.walk import Decision, Outlook, forward


def decide(saga: Saga, journal: Journal, *, now: float) -> tuple[Journal, Outlook]:
    """Write all decisions that a running saga needs before its next requests.

    Returns:
        The journal, and what it needs after these decisions.
    """
    while (outlook := forward(saga, journal)).decisions:
        decided = tuple(_entry_of(each, journal, now) for each in outlook.decisions)
        journal = replace(journal, entries=journal.entries + decided)
    return journal, outlook


def _entry_of(decision: Decision, journal: Journal, now: float) -> JournalEntry:
    entry = JournalEntry(
        step=decision.name,
        direction="forward",
        attempt=1,
        request_id=request_id_of(journal.saga_id, decision.name, "forward", 1),
        payload={},
        started=now,
        ended=now,
        kind="decision",
    )
    try:
        return _decided(decision, journal, entry)
    except Exception as failure:  # noqa: BLE001 - a declaration may raise anything
        error = {
            "error_type": type(failure).__name__,
            "message": f"cannot decide step {decision.name!r}: {failure!r}",
            "trace_id": "",
        }
        return replace(entry, status="failed", error=error)


def _decided(decision: Decision, journal: Journal, entry: JournalEntry) -> JournalEntry:
    node = decision.node

    def call(function: Callable[..., Any]) -> Any:
        return decision.scope.call(function, journal)

    if isinstance(node, Step):
        if decision.failure is not None:
            raise decision.failure
        return replace(entry, status="skipped")
    if not isinstance(node, ForEach) and node.when is not None and not call(node.when):
        return replace(entry, status="skipped")
    match node:
        case ForEach():
            items = call(node.items)
            if isinstance(items, str | bytes | dict):
                raise SagaError(f"its items must be a list, not {type(items).__name__}")
            return replace(
                entry, status="completed", result=as_json({"items": list(items)}, "items")
            )
        case Child():
            return replace(entry, status="completed", payload=as_json(call(node.input), "input"))
        case WaitFor():
            key = "" if node.key is None else check_name("key", call(node.key))
            payload = {"key": key, "timeout_s": node.timeout, "on_timeout": node.on_timeout}
            return replace(entry, kind="wait", status="waiting", payload=payload, ended=None)
    assert_never(node)
