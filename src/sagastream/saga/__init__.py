"""Sagas: a declared sequence of steps, each with a compensation, driven by a journal on the server."""

from sagastream.saga.definition import Compensation, Saga, Step
from sagastream.saga.journal import ENDED, Direction, Entry, Journal
from sagastream.saga.outcome import SagaOutcome, outcome_of
from sagastream.saga.runner import SagaRunner

__all__ = [
    "ENDED",
    "Compensation",
    "Direction",
    "Entry",
    "Journal",
    "Saga",
    "SagaOutcome",
    "SagaRunner",
    "Step",
    "outcome_of",
]
