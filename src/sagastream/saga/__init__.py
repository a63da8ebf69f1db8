"""Sagas: a declared sequence of steps, each with a compensation, driven by a journal on the server."""

from sagastream.saga.definition import Compensation, Results, Saga, Step
from sagastream.saga.journal import NextAction, next_action
from sagastream.saga.outcome import SagaOutcome, outcome_of
from sagastream.saga.runner import SagaRunner
from sagastream.saga.state import Direction, Journal, JournalEntry

__all__ = [
    "Compensation",
    "Direction",
    "Journal",
    "JournalEntry",
    "NextAction",
    "Results",
    "Saga",
    "SagaOutcome",
    "SagaRunner",
    "Step",
    "next_action",
    "outcome_of",
]
