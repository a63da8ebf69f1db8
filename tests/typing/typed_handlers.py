"""Typed handlers, dependencies and sagas as users write them."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, assert_type

import msgspec
import pydantic

from sagastream import (
    Bus,
    CallNext,
    Command,
    CommandListener,
    Depends,
    Lifespan,
    PlainProgress,
    Progress,
    multi_stage_reply,
)
from sagastream.saga import Compensation, Results, Saga, SagaRunner, Step
from sagastream.sync import Bus as SyncBus


@dataclass
class Order:
    """A dataclass."""

    sku: str


class Paid(TypedDict):
    """A TypedDict."""

    amount: int


class Receipt(pydantic.BaseModel):
    """A pydantic model."""

    number: int


class Parcel(msgspec.Struct):
    """A msgspec Struct."""

    weight: float


class Database:
    """What the lifespan opens."""


@asynccontextmanager
async def lifespan() -> AsyncGenerator[Database]:
    """Open the database."""
    yield Database()


async def session(database: Annotated[Database, Lifespan]) -> AsyncIterator[Mapping[str, Database]]:
    """Open a session."""
    yield {"database": database}


@multi_stage_reply(stream="shop:commands", event_type="shop:reserve")
async def reserve(
    order: Order,
    progress: Progress,
    opened: Annotated[Mapping[str, Database], Depends(session)],
) -> Parcel:
    """An async handler with everything."""
    await progress(0.5, {"sku": order.sku, "opened": len(opened)})
    return Parcel(1.5)


@multi_stage_reply(stream="shop:commands", event_type="shop:charge")
def charge(command: Command[Paid], progress: PlainProgress) -> Receipt:
    """A plain handler with a typed command."""
    progress(0.5)
    return Receipt(number=command.payload["amount"])


@multi_stage_reply(stream="shop:commands", event_type="shop:echo")
async def echo(command: Command, progress: Progress) -> dict[str, Any]:
    """A handler of dicts."""
    await progress(0.5)
    return command.payload


async def log(command: Command, call_next: CallNext) -> Any:
    """A middleware."""
    return await call_next(command)


def reserve_payload(order: Order, results: Results) -> Order:
    """Make the payload of a step."""
    return Order(order.sku + str(len(results)))


SAGA = Saga(
    "order",
    (
        Step(
            name="reserve",
            stream="shop:commands",
            event_type="shop:reserve",
            payload=reserve_payload,
            compensation=Compensation("shop:release", lambda order, _results: order),
        ),
    ),
)


async def use(bus: Bus) -> None:
    """Ask with models, and get them."""
    parcel = await bus.request_and_reply(
        "shop:commands", "shop:reserve", Order("a"), reply_type=Parcel
    )
    assert_type(parcel, Parcel)
    paid = await bus.request_and_reply(
        "shop:commands", "shop:charge", Receipt(number=1), reply_type=Paid
    )
    assert_type(paid, Paid)
    reply = await bus.request_and_reply("shop:commands", "shop:echo", Paid(amount=1))
    assert_type(reply, dict[str, Any])
    await bus.emit_command("shop:commands", event_type="shop:echo", payload=Parcel(1))
    await bus.emit_event(
        "log:events", event_type="log:add", status="ok", payload=Order("a"), correlation_id="c"
    )
    handlers = [reserve, charge, echo]
    listener = CommandListener(
        bus, handlers, lifespan=lifespan, middleware=[log], overrides={session: dict}
    )
    await listener.run()
    saga_id = await SagaRunner(bus, SAGA).start(Order("a"))
    assert_type(saga_id, str)


def use_blocking(bus: SyncBus) -> None:
    """The same, without an event loop."""
    receipt = bus.request_and_reply(
        "shop:commands", "shop:charge", {"amount": 1}, reply_type=Receipt
    )
    assert_type(receipt, Receipt)
    assert_type(bus.request_and_reply("shop:commands", "shop:echo", {}), dict[str, Any])
