"""Emit requests and dead letters again, and drop dead letters, for operators.

Cancelling a request is `Bus.cancel`; sagas have `sagastream.saga.administration`. Each change may
be repeated: the new request of a retry has an id that follows from the old one.
"""

import uuid

from sagastream._codec.entries import decode_command
from sagastream.bus import Bus
from sagastream.errors import SagastreamError
from sagastream.inspection import RequestDetails, command_streams, only_one
from sagastream.status import DeadLetter, dead_letters

_LETTER_FIELDS = (b"dead_reason", b"dead_entry_id")
_LETTERS_AT_ONCE = 500


class CannotRetry(SagastreamError):
    """A request that cannot be emitted again."""


class NoSuchLetter(SagastreamError):
    """There is no dead letter with that id."""


def why_not_retried(request: RequestDetails) -> str:
    """Why a request cannot be emitted again, as far as its record says; '' if it can."""
    name = f"request {request.request_id}"
    if request.status == "unreadable":
        return f"{name} cannot be read"
    if not request.has_ended:
        return f"{name} is {request.status}, and goes on by itself; cancel it first"
    if request.status == "completed":
        return f"{name} has completed; emit a new one to run it anew"
    if request.saga_id:
        return f"{name} belongs to a saga; see: saga show {request.saga_id}"
    return ""


async def retry_request(bus: Bus, request: RequestDetails) -> str:
    """Emit the command of a request that has failed again, as a new request; two calls emit it once.

    Returns:
        The new request's id.

    Raises:
        CannotRetry: It has not failed, belongs to a saga, or its command is no longer kept.
        InvalidMessage: Its command cannot be read.
        ServerUnavailable: The server did not answer.
    """
    if why := why_not_retried(request):
        raise CannotRetry(why)
    for stream in await command_streams(bus) if request.entry_id else ():
        key = bus.key(stream)
        for _, raw in await bus.command("XRANGE", key, request.entry_id, request.entry_id):
            if raw.get(b"request_id") != request.request_id.encode():
                continue
            command = decode_command(
                raw, stream=stream, entry_id=request.entry_id, max_bytes=bus.max_payload
            )
            new_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{request.request_id}#retry"))
            await bus.emit_command(
                stream,
                event_type=command.event_type,
                payload=command.payload,
                correlation_id=command.correlation_id,
                request_id=new_id,
                reply_stream=command.reply_stream,
            )
            return new_id
    raise CannotRetry(
        f"the command of request {request.request_id} is no longer kept; emit it again"
    )


async def find_dead_letter(bus: Bus, stream: str, letter_id: str) -> DeadLetter:
    """The dead letter with that id, or the only one whose id begins so.

    Raises:
        NoSuchLetter: There is none with that id.
        AmbiguousId: Several ids begin so.
        InvalidMessage: The id is not the id of an entry, or its beginning.
        ServerUnavailable: The server did not answer.
    """
    if letters := await dead_letters(bus, stream, letter_id=letter_id):
        return letters[0]
    ids, key, first = set[str](), bus.key(f"{stream}:dead"), "-"
    while entries := await bus.command("XRANGE", key, first, "+", "COUNT", _LETTERS_AT_ONCE):
        ids |= {entry_id.decode() for entry_id, _ in entries}
        first = f"({entries[-1][0].decode()}"
    fitting = {each for each in ids if each.startswith(letter_id)}
    if not fitting:
        raise NoSuchLetter(f"{stream}:dead has no letter {letter_id}; see: dead list {stream}")
    (letter,) = await dead_letters(
        bus, stream, letter_id=only_one("dead letter", letter_id, fitting)
    )
    return letter


async def retry_dead_letter(bus: Bus, stream: str, letter_id: str) -> str:
    """Emit the command of a dead letter again; two calls emit it once.

    The old request stays ended: this is a new request, with an id derived from the letter's. The
    letter is deleted when the command is in the stream.

    Args:
        bus: The server.
        stream: The command stream that the letter came from.
        letter_id: The whole id of the letter.

    Returns:
        The new request's id.

    Raises:
        NoSuchLetter: There is none with that id.
        InvalidMessage: The letter is not a command, so that it cannot be retried.
        ServerUnavailable: The server did not answer.
    """
    key = bus.key(f"{stream}:dead")
    found = await bus.command("XRANGE", key, letter_id, letter_id)
    if not found:
        raise NoSuchLetter(f"another process has just retried or dropped the letter {letter_id}")
    ((_, fields),) = found
    raw = {name: value for name, value in fields.items() if name not in _LETTER_FIELDS}
    command = decode_command(raw, stream=stream, entry_id=letter_id, max_bytes=bus.max_payload)
    request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{command.request_id}#{letter_id}"))
    await bus.emit_command(
        stream,
        event_type=command.event_type,
        payload=command.payload,
        correlation_id=command.correlation_id,
        saga_id=command.saga_id,
        request_id=request_id,
        reply_stream=command.reply_stream,
    )
    await bus.command("XDEL", key, letter_id)
    return request_id


async def drop_dead_letter(bus: Bus, letter: DeadLetter) -> None:
    """Delete a dead letter; one that is gone already stays gone.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    await bus.command("XDEL", bus.key(f"{letter.stream}:dead"), letter.letter_id)
