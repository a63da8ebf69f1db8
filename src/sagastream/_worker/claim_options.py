"""What all claims of a listener have in common."""

from dataclasses import dataclass

from sagastream.retention import Retention


@dataclass(frozen=True, slots=True)
class ClaimOptions:
    """What all claims of a listener, or of one handler, have in common.

    Attributes:
        group: The consumer group.
        consumer: The listener.
        lease_s: How long a claim lasts without renewal, in seconds.
        max_deliveries: How many handlers a request may lose before it becomes a dead letter.
        progress_interval_s: Progress that comes faster is coalesced: the newest wins.
        retention: How long results are kept.
        tracebacks: Whether failed replies have one.
    """

    group: str
    consumer: str
    lease_s: float
    max_deliveries: int
    progress_interval_s: float
    retention: Retention
    tracebacks: bool = True
