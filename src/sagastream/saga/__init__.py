"""Sagas: declared steps, in sequence and in branches, each with a compensation, driven by a journal."""

from sagastream.saga.definition import (
    Child,
    Compensation,
    ForEach,
    Node,
    Parallel,
    Results,
    Saga,
    Step,
    WaitFor,
)
from sagastream.saga.events import send_event, signal_saga
from sagastream.saga.journal import next_action, next_actions
from sagastream.saga.outcome import SagaOutcome, outcome_of
from sagastream.saga.runner import SagaRunner
from sagastream.saga.state import Direction, Journal, JournalEntry
from sagastream.saga.walk import NextAction

__all__ = [
    "Child",
    "Compensation",
    "Direction",
    "ForEach",
    "Journal",
    "JournalEntry",
    "NextAction",
    "Node",
    "Parallel",
    "Results",
    "Saga",
    "SagaOutcome",
    "SagaRunner",
    "Step",
    "WaitFor",
    "next_action",
    "next_actions",
    "outcome_of",
    "send_event",
    "signal_saga",
]
