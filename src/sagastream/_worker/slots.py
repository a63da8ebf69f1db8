"""Slots: how many commands a listener handles at once."""

import asyncio
from collections import deque


class Slots:
    """The slots of one listener; who waits for one gets it in turn.

    Args:
        count: How many there are.

    Attributes:
        free: How many nobody has.
    """

    def __init__(self, count: int) -> None:
        self.free = count
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait until a slot is free; do not take it."""
        await self.take()
        self.give_back()

    def try_take(self) -> bool:
        """Take a slot if one is free."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True

    async def take(self) -> None:
        """Take a slot; wait for one if none is free."""
        if self.try_take():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give_back()  # it was handed over at the same moment
            raise

    def give_back(self) -> None:
        """Give a slot back, to the one who has waited longest."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.free += 1


class Slot:
    """The slot of one delivery; it may be left and taken again. It is taken now if one is free."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._is_held = slots.try_take()

    async def take(self) -> None:
        """Take the slot, unless it is held."""
        if not self._is_held:
            await self._slots.take()
            self._is_held = True

    def leave(self) -> None:
        """Leave the slot to others, until `take`."""
        if self._is_held:
            self._is_held = False
            self._slots.give_back()
