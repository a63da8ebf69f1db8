"""The entries of a mission's four streams, merged in the order of the server's time.

The streams are the stages of its steps, the transitions of its journal, its recorded frames and some scans.
Whatever process wrote an entry, and whatever handler resumed, the server stamped it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum

from app.config import get_settings
from app.missions.recording import scan_stream
from app.redis_utils import read_streams
from sagastream import SagastreamError, StreamEntry

_BATCH = 100  # entries per stream and read
_BLOCK_S = 0.5
_NS_PER_MS = 1_000_000
# The end of the times of ROS 2, whose seconds have 31 bits.
_LAST_NS = (2**31 - 1) * 1_000_000_000


class EntryKind(Enum):
    """The stream that an entry is from."""

    STAGE = "stage"
    TRANSITION = "transition"
    FRAME = "frame"
    SCANS = "scans"


@dataclass(frozen=True, slots=True)
class MissionEntry:
    """An entry of a mission.

    Attributes:
        kind: The stream that it is from.
        time_ns: When the server took it, nanoseconds since 1970; never before an earlier entry.
        entry: The entry as it is stored.
    """

    kind: EntryKind
    time_ns: int
    entry: StreamEntry


async def read_mission_entries(
    saga_id: str, *, follow: bool = False, is_over: Callable[[], bool] = lambda: False
) -> AsyncIterator[MissionEntry]:
    """Read the entries of a mission, from the first one.

    Args:
        saga_id: The mission's id.
        follow: Continue with new entries until `is_over` returns true and nothing is left, and
            wait while the server is unavailable.
        is_over: Whether the mission has ended.

    A key that is not a stream is read as empty.

    Raises:
        ServerUnavailable: The server did not answer, and `follow` is false.
    """
    kinds = {
        f"saga:{saga_id}:replies": EntryKind.STAGE,
        f"saga:{saga_id}:journal": EntryKind.TRANSITION,
        get_settings().recording_stream(saga_id): EntryKind.FRAME,
        scan_stream(saga_id): EntryKind.SCANS,
    }
    last = dict.fromkeys(kinds, "0-0")
    newest = 0
    while True:
        was_over = is_over()
        try:
            entries = await _read(last, _BLOCK_S if follow and not was_over else 0.0)
        except SagastreamError:
            if not follow:
                raise
            await asyncio.sleep(_BLOCK_S)
            continue
        for entry in entries:
            last[entry.stream] = entry.entry_id
            newest = max(newest, min(_key(entry)[0] * _NS_PER_MS, _LAST_NS))
            yield MissionEntry(kinds[entry.stream], newest, entry)
        if not entries and (was_over or not follow):
            return


async def _read(last: dict[str, str], block_s: float) -> list[StreamEntry]:
    """Read the next entries of all streams, in order; those that later ones may precede wait."""
    found = await read_streams(last, count=_BATCH, block_s=block_s)
    by_stream: dict[str, list[StreamEntry]] = {}
    for entry in found:
        by_stream.setdefault(entry.stream, []).append(entry)
    # A stream that filled its batch may have more entries, which come before those of others.
    limits = [_key(each[-1]) for each in by_stream.values() if len(each) == _BATCH]
    return sorted(
        (entry for entry in found if all(_key(entry) <= limit for limit in limits)), key=_key
    )


def _key(entry: StreamEntry) -> tuple[int, int]:
    milliseconds, _, sequence = entry.entry_id.partition("-")
    return int(milliseconds), int(sequence)
