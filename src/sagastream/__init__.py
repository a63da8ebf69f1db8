"""Durable, traced, multi-stage request-reply over Redis or Valkey Streams."""

from importlib.metadata import version

from sagastream._client.replies import BackoffConfig
from sagastream._codec.entries import StreamEntry
from sagastream._schedules.schedule import Schedule
from sagastream.admission import Limit, Priority, Unique
from sagastream.bus import Bus
from sagastream.dependencies import CallNext, Depends, Lifespan, Middleware
from sagastream.effects import Atomic, Write
from sagastream.errors import (
    DataLost,
    DeadlineExceeded,
    HandlerLost,
    HandlerStopped,
    InvalidMessage,
    InvalidPayload,
    LeaseLost,
    NoHandlers,
    NotReplicated,
    Overloaded,
    RegistrationError,
    ReplyTimeout,
    RequestCancelled,
    RequestConflict,
    RequestFailed,
    ResultExpired,
    SagastreamError,
    ServerError,
    ServerRefused,
    ServerUnavailable,
    ServerUnsuitable,
    StageRefused,
    UnknownLayout,
    WriteConflict,
)
from sagastream.handlers import Handler, discover, multi_stage_reply
from sagastream.listener import CommandListener
from sagastream.message import Command, Payload, PlainProgress, Progress
from sagastream.retention import Retention
from sagastream.retries import RetryPolicy

__all__ = [
    "Atomic",
    "BackoffConfig",
    "Bus",
    "CallNext",
    "Command",
    "CommandListener",
    "DataLost",
    "DeadlineExceeded",
    "Depends",
    "Handler",
    "HandlerLost",
    "HandlerStopped",
    "InvalidMessage",
    "InvalidPayload",
    "LeaseLost",
    "Lifespan",
    "Limit",
    "Middleware",
    "NoHandlers",
    "NotReplicated",
    "Overloaded",
    "Payload",
    "PlainProgress",
    "Priority",
    "Progress",
    "RegistrationError",
    "ReplyTimeout",
    "RequestCancelled",
    "RequestConflict",
    "RequestFailed",
    "ResultExpired",
    "Retention",
    "RetryPolicy",
    "SagastreamError",
    "Schedule",
    "ServerError",
    "ServerRefused",
    "ServerUnavailable",
    "ServerUnsuitable",
    "StageRefused",
    "StreamEntry",
    "Unique",
    "UnknownLayout",
    "Write",
    "WriteConflict",
    "discover",
    "multi_stage_reply",
]

__version__ = version("sagastream")
