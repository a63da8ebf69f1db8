"""A person's approval of a mission's map: asked for at the start, given or refused before it is merged.

The mission waits for it in its journal, without a task and without robots. The first decision counts.
"""

from app.missions.mission_saga import APPROVAL, mission_runner
from app.redis_utils import get_bus
from sagastream.errors import SagaError
from sagastream.saga import Journal, signal_saga


class NotWaiting(SagaError):
    """A mission does not wait for an approval.

    Attributes:
        saga_id: The mission.
        state: What it does instead.
    """

    def __init__(self, saga_id: str, state: str) -> None:
        super().__init__(f"mission {saga_id} does not wait for an approval: it is {state}")
        self.saga_id = saga_id
        self.state = state

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.saga_id, self.state)


def is_awaited(journal: Journal) -> bool:
    """Whether a mission waits for an approval now."""
    entry = journal.last(APPROVAL, "forward")
    return journal.status == "running" and entry is not None and entry.status == "waiting"


async def decide(saga_id: str, *, approved: bool, reason: str = "") -> Journal:
    """Approve a mission's exploration, or reject it: then the mission is undone in reverse.

    Args:
        saga_id: The mission.
        approved: The decision. The same decision again changes nothing.
        reason: Why, for the journal.

    Returns:
        The journal after the decision.

    Raises:
        NoSuchSaga: There is no such mission.
        NotWaiting: It does not wait for an approval.
        SagaError: Another decision came before this one.
        ServerUnavailable: The server did not answer.
    """
    runner = mission_runner()
    journal = await runner.journal(saga_id)
    if not is_awaited(journal):
        entry = journal.last(APPROVAL, "forward")
        state: str = journal.status
        if entry is not None and entry.status == "completed":
            state = f"approved, and {state}"
        elif state == "running":
            state = (
                "exploring, and asks later" if is_asked(journal) else "running, and asks for none"
            )
        raise NotWaiting(saga_id, state)
    await signal_saga(get_bus(), saga_id, APPROVAL, {"approved": approved, "reason": reason})
    return await runner.wake(saga_id)


def is_asked(journal: Journal) -> bool:
    """Whether a mission waits for an approval before its maps are merged."""
    return journal.input.get("approve") is True
