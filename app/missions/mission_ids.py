"""Finds missions by the beginning of their ids."""

from collections.abc import Iterable

from app.missions.mission_saga import mission_runner
from sagastream.errors import NoSuchSaga, SagaError

_SHOWN = 5


def match_id(given: str, known: Iterable[str]) -> str | None:
    """Return the id that equals a given one, or the only one that begins with it; None if none does.

    Args:
        given: An id, or its beginning.
        known: The ids to choose from.

    Raises:
        SagaError: Several begin with it; the error lists them.
    """
    ids = sorted(set(known))
    if given in ids:
        return given
    found = [one for one in ids if given and one.startswith(given)]
    if len(found) > 1:
        more = ", ..." if len(found) > _SHOWN else ""
        listed = ", ".join(found[:_SHOWN]) + more
        raise SagaError(f"{len(found)} missions begin with {given}: {listed}; give more of the id")
    return found[0] if found else None


async def known_ids() -> set[str]:
    """Return the ids of all missions on the server.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    runner = mission_runner()
    ids = [await runner.ids(state) for state in ("open", "ended", "stuck")]
    return {one for some in ids for one in some}


async def full_id(given: str) -> str:
    """Return the id of the mission that an id, or its unique beginning, stands for.

    Raises:
        SagaError: Several missions begin with it.
        NoSuchSaga: None does.
        ServerUnavailable: The server did not answer.
    """
    found = match_id(given, await known_ids())
    if found is None:
        raise NoSuchSaga(given)
    return found
