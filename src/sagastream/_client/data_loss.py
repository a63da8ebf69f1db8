"""Notice that the server came back without our data, or with older data.

A hash on the server has an id that is made once, and a counter that every emit raises.
Another id means that all data are gone (`FLUSHALL`, an empty restart); a counter that fell
means that an older state was restored. Neither can be repaired, so both raise an error.
"""

import uuid

from sagastream._redis.connection import Connection
from sagastream.errors import DataLost


class DataLossGuard:
    """What one process remembers of the data set that it works on.

    Args:
        connection: The server.
        key: The hash of id and counter.
    """

    def __init__(self, connection: Connection, key: str) -> None:
        self.key = key
        self._connection = connection
        self._id = b""
        self._counter = 0

    def note_counter(self, counter: int) -> None:
        """Remember the highest counter that an emit has returned."""
        self._counter = max(self._counter, counter)

    async def check(self) -> None:
        """Compare the server's data set with the remembered one; remember it on the first call.

        Raises:
            DataLost: It is another data set, or an older state of this one. Raised once.
        """
        await self._connection.call("HSETNX", self.key, "id", str(uuid.uuid4()))
        current_id, emitted = await self._connection.call("HMGET", self.key, "id", "emitted")
        counter = int(emitted or 0)
        known_id, self._id = self._id, current_id
        highest, self._counter = self._counter, counter
        if known_id and known_id != current_id:
            raise DataLost(self._connection.address, "its data set is another one, or empty")
        if counter < highest:
            behind = highest - counter
            raise DataLost(self._connection.address, f"its data are {behind} commands older")
