"""The attempts of a request and their stages, from its stage log or the replies of its saga."""

from dataclasses import dataclass, field
from typing import Any

from sagastream.bus import Bus
from sagastream.errors import InvalidMessage, ServerError
from sagastream.inspection import RequestDetails
from sagastream.message import TERMINAL_STAGES, error_text

_STAGES_READ = 200


@dataclass(frozen=True, slots=True)
class RequestStage:
    """A stage, as it was written.

    Attributes:
        status: The stage; `unreadable` for an entry that is malformed.
        time_s: When it was written, in seconds since the Unix epoch, by the server's clock.
        payload: Its payload.
        epoch: The epoch of its claim; '' if it was written without one.
    """

    status: str
    time_s: float
    payload: dict[str, Any]
    epoch: str = ""

    @property
    def is_terminal(self) -> bool:
        """Whether it ends the request."""
        return self.status in TERMINAL_STAGES


@dataclass(slots=True)
class RequestAttempt:
    """The stages of one claim.

    Attributes:
        number: From 1, of those that are shown.
        status: `running`, `retried` if another attempt followed or is due, or how it ended.
        why: Why it ended so; '' if that is not known.
        stages: Its stages, the oldest first.
    """

    number: int
    status: str = "retried"
    why: str = ""
    stages: list[RequestStage] = field(default_factory=list)

    @property
    def duration_s(self) -> float | None:
        """Seconds from its first stage to its terminal one; None while it has none."""
        if not self.stages or not self.stages[-1].is_terminal:
            return None
        return max(0.0, self.stages[-1].time_s - self.stages[0].time_s)


async def read_stages(bus: Bus, request: RequestDetails) -> list[RequestStage]:
    """The last stages of a request that are kept, the oldest first.

    A request that is followed has its own log; one of a saga is in the replies of the saga.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    stages = await _stages_of(bus, f"request:{request.request_id}:stages", request.request_id)
    if not stages and request.saga_id:
        stages = await _stages_of(bus, f"saga:{request.saga_id}:replies", request.request_id)
    return stages


async def _stages_of(bus: Bus, stream: str, request_id: str) -> list[RequestStage]:
    try:
        entries = await bus.last_entries(stream, _STAGES_READ)
    except ServerError:
        return []  # the key is not a stream
    stages = []
    for entry in reversed(entries):
        # A malformed entry of a shared stream may belong to another request.
        if entry.fields.get("request_id") != request_id:
            continue
        time_s = int(entry.entry_id.partition("-")[0]) / 1000
        try:
            reply = entry.reply(max_bytes=bus.max_payload)
        except InvalidMessage as error:
            stages.append(RequestStage("unreadable", time_s, {"message": str(error)}))
            continue
        epoch = str(reply.get("epoch", ""))
        stages.append(RequestStage(str(reply["status"]), time_s, reply["payload"], epoch))
    return stages


def attempts_of(request: RequestDetails, stages: list[RequestStage]) -> list[RequestAttempt]:
    """Group stages by attempt, and say how each attempt ended.

    Args:
        request: The request now.
        stages: Its stages, the oldest first.
    """
    attempts: list[RequestAttempt] = []
    epoch = None
    for stage in stages:
        # A terminal stage may come from outside a claim, such as a cancel: it ends the last one.
        begins = stage.status == "start" or (stage.epoch != epoch and not stage.is_terminal)
        if not attempts or begins:
            attempts.append(RequestAttempt(len(attempts) + 1))
            epoch = stage.epoch
        attempts[-1].stages.append(stage)
    if attempts:
        _close(attempts[-1], request)
    return attempts


def _close(last: RequestAttempt, request: RequestDetails) -> None:
    end = last.stages[-1]
    if end.is_terminal:
        last.status = end.status
        last.why = error_text(end.payload) if end.status == "failed" else ""
    elif request.has_ended:
        last.status = request.status
    elif request.status == "running":
        last.status = "running"
    elif request.failure:
        last.why = error_text(request.failure)
