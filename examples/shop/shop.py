"""An order: reserve, charge, ship. If a step fails, those before it are undone in reverse."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated

from pydantic import BaseModel

from sagastream import Depends, multi_stage_reply
from sagastream.saga import Compensation, Saga, Step

TABLES = """
CREATE TABLE IF NOT EXISTS done (step TEXT, id TEXT, PRIMARY KEY (step, id));
CREATE TABLE IF NOT EXISTS stock (sku TEXT PRIMARY KEY, count INTEGER CHECK (count >= 0));
"""


class Order(BaseModel):
    id: str
    sku: str
    count: int = 1
    card: str = "4242"


class Payment(BaseModel):
    cents: int


def transaction() -> Iterator[sqlite3.Connection]:
    """One for each attempt: committed before the reply is written, or rolled back."""
    with closing(sqlite3.connect(os.environ["SHOP_DATABASE"], timeout=30)) as db, db:
        yield db


Database = Annotated[sqlite3.Connection, Depends(transaction)]


@multi_stage_reply(stream="shop:commands", event_type="stock:reserve")
def reserve(order: Order, db: Database) -> None:
    if db.execute("INSERT OR IGNORE INTO done VALUES ('reserve', ?)", [order.id]).rowcount:
        db.execute("UPDATE stock SET count = count - ? WHERE sku = ?", [order.count, order.sku])


@multi_stage_reply(stream="shop:commands", event_type="stock:release")
def release(order: Order, db: Database) -> None:
    if db.execute("DELETE FROM done WHERE id = ?", [order.id]).rowcount:
        db.execute("UPDATE stock SET count = count + ? WHERE sku = ?", [order.count, order.sku])


@multi_stage_reply(stream="shop:commands", event_type="card:charge")
def charge(order: Order, db: Database) -> Payment:
    if order.card == "declined":
        raise PermissionError(f"the card of order {order.id} was declined")
    db.execute("INSERT OR IGNORE INTO done VALUES ('charge', ?)", [order.id])
    return Payment(cents=999 * order.count)


@multi_stage_reply(stream="shop:commands", event_type="card:refund")
def refund(order: Order, db: Database) -> None:
    db.execute("DELETE FROM done WHERE step = 'charge' AND id = ?", [order.id])


@multi_stage_reply(stream="shop:commands", event_type="parcel:ship")
def ship(order: Order, db: Database) -> None:
    db.execute("INSERT OR IGNORE INTO done VALUES ('ship', ?)", [order.id])


def step(event_type: str, undo: str = "") -> Step:
    compensation = Compensation(undo, lambda order, _: order) if undo else None
    return Step(event_type, "shop:commands", event_type, lambda order, _: order, compensation)


STEPS = step("stock:reserve", "stock:release"), step("card:charge", "card:refund")
ORDER = Saga("order", (*STEPS, step("parcel:ship")))
