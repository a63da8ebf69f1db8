"""Requesters that die, and whoever comes back for the reply."""

import time

import pytest

from sagastream import Bus
from sagastream.testing import EmbeddedServer
from tests.faults.asking import ask, notes
from tests.faults.figures import Figures
from tests.faults.roles import listening, requester, spawn

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(300)]


@pytest.mark.parametrize("when", ["runs", "has ended"])
async def test_another_process_has_the_reply_within_a_second(
    store: EmbeddedServer, when: str, figures: Figures, is_long: bool
) -> None:
    """The same id, asked by anyone, is the same request: it runs once, and answers at once."""
    row = figures.row(f"requester killed, another asks with its id when the request {when}")
    payload = {"wait_s": 0.3}
    with listening(store.url):
        for turn in range(25 if is_long else 3):
            name = f"r{turn}"
            killed = spawn(requester, store.url, payload, name)
            while len([note for note in notes(store) if note == "begun 1"]) <= turn:
                assert killed.is_alive()
            killed.kill()
            killed.join()
            async with Bus(store.url) as bus:
                if when == "has ended":
                    async for _ in bus.follow(name):
                        pass
                asked = time.monotonic()
                reply = await ask(bus, payload, name)
                took_s = time.monotonic() - asked
            row.recoveries.append(took_s)
            assert reply["payload"] == {"epoch": 1}
            row.check(store, name)
    assert notes(store).count("begun 1") == len(row.recoveries)
    assert max(row.recoveries) < 1.0 + payload["wait_s"]
