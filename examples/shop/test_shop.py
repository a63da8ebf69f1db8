import sqlite3
from pathlib import Path

import pytest

import shop
from sagastream import Bus, CommandListener, discover
from sagastream.saga import SagaRunner
from sagastream.testing import EmbeddedServer, running


@pytest.mark.parametrize(("card", "left"), [("4242", 3), ("declined", 5)])
async def test_a_declined_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: str, left: int
) -> None:
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.db"))
    with EmbeddedServer() as server, sqlite3.connect(tmp_path / "shop.db") as database:
        database.executescript(f"{shop.TABLES}; INSERT INTO stock VALUES ('tea', 5);")
        async with Bus(server.url) as bus, running(CommandListener(bus, discover("shop"))):
            runner = SagaRunner(bus, shop.ORDER)
            order = shop.Order(id="a", sku="tea", count=2, card=card)
            await runner.run(await runner.start(order))
        assert database.execute("SELECT count FROM stock").fetchall() == [(left,)]
