"""Typed handlers: their payloads and results are models, and a payload that does not fit fails."""

import asyncio
import dataclasses
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NotRequired, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest

from sagastream import (
    Atomic,
    Bus,
    Command,
    Depends,
    InvalidMessage,
    InvalidPayload,
    PlainProgress,
    Progress,
    RegistrationError,
    RequestFailed,
    multi_stage_reply,
)
from sagastream.saga import Compensation, Results, Saga, SagaRunner, Step
from sagastream.sync import Bus as SyncBus
from tests.listeners import listening

STREAM = "work:commands"
T = TypeVar("T")


@dataclass
class Line:
    """A line of an order, as a dataclass."""

    sku: str
    quantity: int = 1


@dataclass
class Order:
    """An order with lines."""

    items: list[Line]
    note: str | None = None


class LineDict(TypedDict):
    """A line of an order, as a TypedDict."""

    sku: str
    quantity: NotRequired[int]


class OrderDict(TypedDict):
    """An order, as a TypedDict."""

    items: list[LineDict]
    note: NotRequired[str | None]


class LineModel(pydantic.BaseModel):
    """A line of an order, as a pydantic model."""

    model_config = pydantic.ConfigDict(strict=True)
    sku: str
    quantity: int = 1


class OrderModel(pydantic.BaseModel):
    """An order, as a pydantic model."""

    model_config = pydantic.ConfigDict(strict=True)
    items: list[LineModel]
    note: str | None = None


class LineStruct(msgspec.Struct):
    """A line of an order, as a msgspec Struct."""

    sku: str
    quantity: int = 1


class OrderStruct(msgspec.Struct):
    """An order, as a msgspec Struct."""

    items: list[LineStruct]
    note: str | None = None


@pydantic.dataclasses.dataclass
class OrderOfPydantic:
    """An order, as a dataclass of pydantic."""

    items: list[LineModel]
    note: str | None = None


MODELS: dict[str, Any] = {
    "dataclass": Order(items=[Line("a"), Line("b", 2)]),
    "TypedDict": OrderDict(items=[LineDict(sku="a", quantity=1), LineDict(sku="b", quantity=2)]),
    "pydantic": OrderModel(items=[LineModel(sku="a"), LineModel(sku="b", quantity=2)]),
    "msgspec": OrderStruct(items=[LineStruct("a"), LineStruct("b", 2)]),
    "pydantic dataclass": OrderOfPydantic([LineModel(sku="a"), LineModel(sku="b", quantity=2)]),
}
TYPES: dict[str, Any] = {
    "dataclass": Order,
    "TypedDict": OrderDict,
    "pydantic": OrderModel,
    "msgspec": OrderStruct,
    "pydantic dataclass": OrderOfPydantic,
}


def _echo_of(kind: Any, seen: list[Any]) -> Callable[..., Any]:
    async def echo(order: kind) -> kind:
        seen.append(order)
        return order

    return echo


@pytest.mark.parametrize("name", MODELS)
async def test_a_model_goes_in_and_out(bus: Bus, name: str) -> None:
    """The handler gets the model, and the requester gets it back as `reply_type`."""
    seen: list[Any] = []
    echo = multi_stage_reply(stream=STREAM, event_type="work:do")(_echo_of(TYPES[name], seen))
    async with listening(bus, [echo]):
        found = await bus.request_and_reply(
            STREAM, "work:do", MODELS[name], 5, reply_type=TYPES[name]
        )
        plain = await bus.request_and_reply(STREAM, "work:do", MODELS[name], 5)
    assert seen == [MODELS[name], MODELS[name]]
    assert found == MODELS[name]
    assert plain["payload"]["items"] == [{"sku": "a", "quantity": 1}, {"sku": "b", "quantity": 2}]


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "wrong type": ({"items": [{"sku": "a"}, {"sku": "b", "quantity": "two"}]}, "items[1].quantity"),
    "missing": ({"items": [{"quantity": 2}]}, "items[0].sku"),
    "no list": ({"items": 7}, "items"),
    "nothing": ({}, "items"),
    "null": ({"items": None}, "items"),
    "a boolean": ({"items": [{"sku": "a", "quantity": True}]}, "items[0].quantity"),
    "optional": ({"items": [], "note": 7}, "note"),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("name", MODELS)
async def test_a_payload_that_does_not_fit_fails_and_names_the_field(
    bus: Bus, name: str, misfit: str
) -> None:
    """The handler is not called; the error has the path from its parameter, without the value."""
    seen: list[Any] = []
    echo = multi_stage_reply(stream=STREAM, event_type="work:do")(_echo_of(TYPES[name], seen))
    payload, path = MISFITS[misfit]
    async with listening(bus, [echo]):
        with pytest.raises(RequestFailed) as failed:
            await bus.request_and_reply(STREAM, "work:do", payload, 5)
    assert failed.value.error_type == "InvalidPayload"
    assert failed.value.message.startswith(f"order.{path}: ")
    assert "two" not in failed.value.message
    assert seen == []


class Color(enum.Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


@dataclass
class Page(Generic[T]):
    """A generic dataclass."""

    rows: list[T]


@dataclass
class Tree:
    """A dataclass that contains itself."""

    name: str
    children: "list[Tree]" = field(default_factory=list)
    total: int = field(init=False, default=0)


@dataclass
class Everything:
    """All kinds of values."""

    when: datetime
    day: date
    id: UUID
    price: Decimal
    raw: bytes
    color: Color
    kind: Literal["a", 1]
    tags: set[str]
    pair: tuple[int, str]
    several: tuple[int, ...]
    by_color: dict[Color, Line]
    model: OrderModel
    struct: LineStruct
    page: Page[Line]
    ratio: float
    either: Line | Color
    rest: Any


EVERYTHING = Everything(
    when=datetime(2026, 11, 26, 12, tzinfo=UTC),
    day=date(2026, 11, 26),
    id=UUID(int=7),
    price=Decimal("1.10"),
    raw=b"\x00\xff",
    color=Color.BLUE,
    kind=1,
    tags={"x"},
    pair=(1, "one"),
    several=(1, 2, 3),
    by_color={Color.RED: Line("r")},
    model=OrderModel(items=[LineModel(sku="a")]),
    struct=LineStruct("s"),
    page=Page([Line("p")]),
    ratio=0.5,
    either=Color.RED,
    rest={"free": [1, None]},
)


async def test_all_kinds_of_values_go_in_and_out(bus: Bus) -> None:
    """What is encoded can be decoded to an equal value."""
    seen: list[Any] = []
    echo = multi_stage_reply(stream=STREAM, event_type="work:do")(_echo_of(Everything, seen))
    async with listening(bus, [echo]):
        found = await bus.request_and_reply(STREAM, "work:do", EVERYTHING, 5, reply_type=Everything)
    assert seen == [EVERYTHING]
    assert found == EVERYTHING


async def test_a_model_may_contain_itself_and_stand_in_a_dict(bus: Bus) -> None:
    """A recursive dataclass, inside a plain dict, as payload and as result without annotation."""

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def first(command: Command):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return Tree("root", [Tree(command.payload["tree"]["children"][0]["name"])])

    payload = {"tree": Tree("root", [Tree("leaf")])}
    async with listening(bus, [first]):
        tree = await bus.request_and_reply(STREAM, "work:do", payload, 5, reply_type=Tree)
    assert tree == Tree("root", [Tree("leaf")])


async def test_a_typed_command_and_a_plain_handler(bus: Bus) -> None:
    """`Command[Order]` has the model as its payload; `progress` may come in any place, or not."""
    fractions: list[float] = []

    @multi_stage_reply(stream=STREAM, event_type="work:plain")
    def plain(progress: PlainProgress, command: Command[Order]) -> Order:
        progress(0.5)
        return dataclasses.replace(command.payload, note=command.request_id)

    @multi_stage_reply(stream=STREAM, event_type="work:dict")
    def given(payload: Mapping[str, Any], *, progress: PlainProgress) -> Mapping[str, Any]:
        progress(0.25)
        return payload

    @multi_stage_reply(stream=STREAM, event_type="work:none")
    def nothing() -> None: ...

    async with listening(bus, [plain, given, nothing]):
        order = await bus.request_and_reply(
            *(STREAM, "work:plain", Order([]), 5),
            on_progress=lambda stage: fractions.append(stage["payload"].get("fraction")),
            request_id="r",
            reply_type=Order,
        )
        reply = await bus.request_and_reply(STREAM, "work:dict", {"a": 1}, 5)
        with pytest.raises(RequestFailed, match=r"payload\.items: is missing"):
            await bus.request_and_reply(STREAM, "work:plain", {}, 5)
        empty = await bus.request_and_reply(STREAM, "work:none", {}, 5)
    assert order == Order([], note="r")
    assert 0.5 in fractions
    assert (reply["payload"], empty["payload"]) == ({"a": 1}, {})


async def test_what_a_handler_returns_is_checked(bus: Bus) -> None:
    """A result of another type than the declared one is the handler's fault, and is named."""

    @multi_stage_reply(stream=STREAM, event_type="work:other")
    async def other(order: Order) -> Order:
        return {"items": []}  # type: ignore[return-value]

    @multi_stage_reply(stream=STREAM, event_type="work:inner")
    async def inner() -> Order:
        return Order([Line("a", "two")])  # type: ignore[arg-type]

    async with listening(bus, [other, inner]):
        with pytest.raises(RequestFailed, match="InvalidMessage: result: must be a Order"):
            await bus.request_and_reply(STREAM, "work:other", Order([]), 5)
        with pytest.raises(RequestFailed, match=r"InvalidMessage: result\.items\[0\]\.quantity"):
            await bus.request_and_reply(STREAM, "work:inner", {}, 5)


async def test_a_result_that_is_no_reply_type(bus: Bus) -> None:
    """The request has completed; the caller's type is refused before anything is sent."""
    echo = multi_stage_reply(stream=STREAM, event_type="work:do")(_echo_of(Order, []))
    async with listening(bus, [echo]):
        with pytest.raises(InvalidPayload, match=r"result\.rows: is missing"):
            await bus.request_and_reply(
                STREAM, "work:do", Order([]), 5, reply_type=Page, request_id="r"
            )
        outcome = await bus.outcome("r")
    assert outcome is not None
    assert outcome["status"] == "completed"
    with pytest.raises(InvalidMessage, match="reply_type"):
        await bus.request_and_reply(STREAM, "work:do", {}, 5, reply_type=int, request_id="s")
    assert await bus.outcome("s") is None


async def test_a_payload_that_is_no_json_is_refused_before_it_is_sent(bus: Bus) -> None:
    """The field is named, in a model as in a dict."""

    @dataclass
    class Odd:
        ratio: float

    for payload in (Odd(float("nan")), {"odd": Odd(float("inf"))}):
        with pytest.raises(InvalidMessage, match="ratio"):
            await bus.emit_command(STREAM, event_type="work:do", payload=payload)


async def test_a_post_init_that_refuses_is_a_misfit(bus: Bus) -> None:
    """Its message is kept, and names the model's place."""

    @dataclass
    class Positive:
        number: int

        def __post_init__(self) -> None:
            if self.number < 1:
                raise ValueError("the number must be above 0")

    echo = multi_stage_reply(stream=STREAM, event_type="work:do")(_echo_of(Positive, []))
    async with listening(bus, [echo]):
        with pytest.raises(RequestFailed, match="InvalidPayload: order: the number must be"):
            await bus.request_and_reply(STREAM, "work:do", {"number": 0}, 5)


async def test_models_in_events_and_in_the_blocking_bus(bus: Bus) -> None:
    """`emit_event` takes them, and `sagastream.sync.Bus` takes and returns them."""
    await bus.emit_event(
        "log:events", event_type="log:add", status="ok", payload=Line("a"), correlation_id="c"
    )
    (entry,) = await bus.last_entries("log:events", 1)
    assert entry.fields["payload"] == '{"quantity":1,"sku":"a"}'
    echo = multi_stage_reply(stream=STREAM, event_type="work:do")(_echo_of(OrderModel, []))

    def ask() -> Order:
        with SyncBus(bus.url, namespace=bus.namespace) as blocking:
            return blocking.request_and_reply(
                STREAM, "work:do", MODELS["msgspec"], 5, reply_type=Order
            )

    async with listening(bus, [echo]):
        assert await asyncio.to_thread(ask) == MODELS["dataclass"]
    await bus.command("DEL", bus.key("log:events"))


# -- sagas ----------------------------------------------------------------------------------------


def _reserve_payload(order: Order, _results: Results) -> OrderModel:
    return OrderModel(items=[LineModel(sku=line.sku) for line in order.items])


async def test_a_saga_takes_models(bus: Bus) -> None:
    """Its input, the payloads of its steps and of its compensations are models."""
    undone: list[OrderModel] = []

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def do(order: OrderModel) -> LineModel:
        return order.items[0]

    @multi_stage_reply(stream=STREAM, event_type="work:undo")
    async def undo(order: OrderModel) -> None:
        undone.append(order)

    calls: list[int] = []

    @multi_stage_reply(stream=STREAM, event_type="work:fail")
    async def fail(order: Page[int]) -> None:
        calls.append(1)

    saga = Saga(
        "typed",
        (
            Step(
                *("do", STREAM, "work:do", _reserve_payload),
                compensation=Compensation("work:undo", _reserve_payload),
            ),
            Step("fail", STREAM, "work:fail", lambda _order, results: results["do"], retries=5),
        ),
    )
    async with listening(bus, [do, undo, fail]):
        runner = SagaRunner(bus, saga)
        saga_id = await runner.start(Order([Line("a", 3)]))
        outcome = await runner.run(saga_id)
    assert outcome.status == "compensated"
    assert outcome.results["do"] == {"sku": "a", "quantity": 1}
    assert outcome.error["error_type"] == "InvalidPayload"
    assert outcome.error["message"] == "order.rows: is missing"
    assert [entry.step for entry in outcome.entries] == ["do", "fail", "do"], "without a retry"
    assert calls == []
    assert undone == [OrderModel(items=[LineModel(sku="a")])]


# -- what cannot work -----------------------------------------------------------------------------


async def _calls_progress(order: Order) -> None:
    await progress(0.5)  # type: ignore[name-defined]  # noqa: F821


async def _calls_progress_inside(order: Order) -> None:
    async def later() -> None:
        await progress(0.5)  # type: ignore[name-defined]  # noqa: F821

    await later()


async def _returns_set(order: Order) -> set[str]:
    return set()


async def _returns_number(order: Order) -> int:
    return 1


async def _returns_list(order: Order) -> list[Order]:
    return [order]


@dataclass
class _Unserialisable:
    inner: Callable[[], None]


async def _returns_unserialisable(order: Order) -> _Unserialisable | None:
    return None


async def _takes_number(amount: int) -> None: ...


async def _takes_unknown(order: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def _takes_two_payloads(order: Order, line: Line) -> None: ...


async def _takes_more(command, progress, more) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


async def _takes_plain_progress(order: Order, progress: PlainProgress) -> None: ...


async def _takes_marker(order: Order, pool: Any = Depends(Order)) -> None: ...  # noqa: B008


async def _takes_struct_list(order: "StructList") -> None: ...


class StructList(msgspec.Struct, array_like=True):
    """A Struct whose JSON is a list."""

    a: int


class RootList(pydantic.RootModel[list[int]]):
    """A model whose JSON is a list."""


async def _takes_root_list(order: RootList) -> None: ...


async def _takes_keys(order: dict[int, str]) -> None: ...


class Shop:
    """A class with a handler that forgot `self`."""

    async def forgot(order: Order) -> None: ...  # type: ignore[misc]  # noqa: N805

    async def method(self, order: Order) -> None:
        """A method that nobody binds."""


REFUSED: dict[str, tuple[Any, str]] = {
    "progress": (_calls_progress, "calls `progress`.*add the parameter"),
    "progress inside": (_calls_progress_inside, "calls `progress`"),
    "set": (_returns_set, r"result set\[str\] cannot be a reply"),
    "number": (_returns_number, "result int cannot be a reply"),
    "list": (_returns_list, "cannot be a reply"),
    "unserialisable": (_returns_unserialisable, r"cannot be a reply: _Unserialisable\.inner"),
    "payload number": (_takes_number, "parameter amount cannot be a payload"),
    "unknown": (_takes_unknown, "annotation 'Missing' of order cannot be resolved"),
    "two payloads": (_takes_two_payloads, "order and line are both the payload"),
    "too many": (_takes_more, "takes two arguments.*more"),
    "plain progress": (_takes_plain_progress, "must be Progress"),
    "marker": (_takes_marker, "Annotated"),
    "struct list": (_takes_struct_list, "cannot be a payload"),
    "root list": (_takes_root_list, "cannot be a payload"),
    "keys": (_takes_keys, "keys that are not text"),
    "no self": (Shop.forgot, "is a method"),
    "unbound": (Shop.method, "is a method"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_work_is_refused_where_it_is_declared(what: str) -> None:
    """One line names the event type, the handler and the fix."""
    function, reason = REFUSED[what]
    with pytest.raises(RegistrationError, match=reason) as refused:
        multi_stage_reply(stream=STREAM, event_type="work:do")(function)
    assert f"work:do on {STREAM}" in str(refused.value)
    assert function.__qualname__ in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_effect_that_does_not_fit_the_result_is_refused() -> None:
    """An atomic handler returns `Atomic`, and no other does."""

    async def writes() -> Atomic:
        return Atomic({}, ())

    async def plain() -> dict[str, Any]:
        return {}

    with pytest.raises(RegistrationError, match='only a handler with effect="atomic"'):
        multi_stage_reply(stream=STREAM, event_type="work:do")(writes)
    with pytest.raises(RegistrationError, match="an atomic handler returns Atomic"):
        multi_stage_reply(stream=STREAM, event_type="work:do", effect="atomic")(plain)
    assert multi_stage_reply(stream=STREAM, event_type="work:do", effect="atomic")(writes)


def test_a_dict_handler_is_called_as_it_is() -> None:
    """Without models there is nothing between the listener and the function."""

    async def say(command: Command, progress: Progress) -> dict[str, Any]:
        return command.payload

    handler = multi_stage_reply(stream=STREAM, event_type="work:do")(say)
    assert handler.call is say
    assert handler.signature.result is None


@pytest.mark.parametrize(
    "function",
    [
        dict,
        lambda command: {},
        lambda order, progress=None: {},
        lambda command, progress, retries=3: {},
        lambda *args: {},
        Shop().method,
        staticmethod(lambda payload: {}),
    ],
)
def test_what_can_be_called_is_accepted(function: Any) -> None:
    """Parameters with defaults keep them, and a bound method has its object."""
    assert multi_stage_reply(stream=STREAM, event_type="work:do")(function).is_async in {
        True,
        False,
    }


async def test_annotations_of_type_checkers_only(bus: Bus) -> None:
    """`Command` and `Progress` that are imported under TYPE_CHECKING are known by their names."""

    async def say(command: "Command", progress: "progress.Progress") -> "dict[str, Any]":  # type: ignore[name-defined]  # noqa: F821
        await progress(0.5)
        return {"id": command.request_id}

    handler = multi_stage_reply(stream=STREAM, event_type="work:do")(say)
    async with listening(bus, [handler]):
        reply = await bus.request_and_reply(STREAM, "work:do", {}, 5, request_id="r")
    assert reply["payload"] == {"id": "r"}


def test_a_class_of_a_function_is_found() -> None:
    """Text annotations may name what the function that declares the handler has defined."""

    @dataclass
    class Local:
        a: int

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def take(local: "Local") -> "Local | None":
        return local

    (argument,) = take.signature.arguments
    assert argument.converter is not None
    assert argument.converter.decode({"a": 1}, "local") == Local(1)


def test_annotated_constraints_are_left_to_the_models() -> None:
    """`Annotated` metadata that the library does not know is ignored."""

    async def take(order: Annotated[Order, "a note"]) -> None: ...

    handler = multi_stage_reply(stream=STREAM, event_type="work:do")(take)
    assert handler.signature.arguments[0].kind == "payload"
