"""A cluster: the node that has a namespace is found, and a slot that moves tears no call."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sagastream import Bus, Command, CommandListener, Schedule, multi_stage_reply
from sagastream._functions.answers import Claimed
from sagastream._redis.deadline import Deadline
from sagastream._redis.retrying import end_tasks
from sagastream.cli.install import install
from sagastream.cli.main import main
from sagastream.errors import SagastreamError, ServerUnsuitable
from sagastream.saga import Saga, SagaRunner, Step, WaitFor, signal_saga
from sagastream.schedules import find_schedules
from tests.clusters import Cluster, cluster
from tests.polling import eventually

pytestmark = pytest.mark.blocking  # servers start

STREAM = "work:commands"


@pytest.fixture(scope="module")
def nodes(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three primaries."""
    binary = request.config.getoption("--server-binary")
    with cluster(binary, has_replicas=False) as whole:
        yield whole


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command) -> dict[str, Any]:
    """Return the attempt."""
    return {"attempt": command.attempt}


async def test_each_namespace_is_on_its_node(nodes: Cluster) -> None:
    """Buses of one family share a connection for each node, whichever node they knew first."""
    async with Bus(nodes.url, namespace="t0") as first:
        buses = [first, *(first.with_namespace(f"t{number}") for number in range(1, 12))]
        for bus in buses:
            await bus.ping()
            async with CommandListener(bus, [work]):
                reply = await bus.request_and_reply(STREAM, "work:do", {}, 10)
            assert reply["payload"] == {"attempt": 1}
        assert len(first.session().connection._nodes.all()) <= 3
        for bus in buses[1:]:
            await bus.close()
        await first.ping()  # its connections are still there
    owners = {nodes.owner(f"{{t{number}}}").port for number in range(12)}
    assert len(owners) == 3, "the namespaces are spread"


async def test_any_node_will_do(nodes: Cluster) -> None:
    """A plain URL of one node is enough; the others are learned from it."""
    for node in nodes.nodes:
        async with Bus(f"redis://127.0.0.1:{node.port}", namespace="any") as bus:
            await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
            assert await bus.outcome("r") is None


async def test_what_names_no_key_goes_to_the_namespace_too(nodes: Cluster) -> None:
    """Such as SCAN, by which verbs list requests, whichever node the bus knows first."""
    for number in range(3):
        async with Bus(nodes.url, namespace=f"scan{number}") as bus:
            await bus.command("SET", bus.key("mark"), "1")
        for node in nodes.nodes:
            url = f"redis://127.0.0.1:{node.port}"
            async with Bus(url, namespace=f"scan{number}") as bus:
                await bus.ping()
                pattern = bus.key("*").replace("{", "[{]")
                _, keys = await bus.command("SCAN", "0", "MATCH", pattern, "COUNT", 10_000)
                assert bus.key("mark").encode() in keys


async def test_a_cluster_needs_a_namespace(nodes: Cluster) -> None:
    """Without one the keys of a request are in several slots."""
    async with Bus(nodes.url) as bus:
        with pytest.raises(ServerUnsuitable, match="give a namespace"):
            await bus.ping()


async def test_the_functions_are_installed_on_each_primary(nodes: Cluster) -> None:
    """One call loads them everywhere."""
    for node in nodes.nodes:
        node.call("FUNCTION", "FLUSH")
    async with Bus(nodes.url, namespace="any") as bus:
        library, is_new = await install(bus)
        assert is_new
        assert not (await install(bus))[1]
    assert all(library in str(node.call("FUNCTION", "LIST")) for node in nodes.nodes)


async def test_a_slot_that_moves_tears_no_call(nodes: Cluster) -> None:
    """While its keys are on two nodes a call does nothing; afterwards it is done on the new one."""
    name = "moving"
    async with Bus(nodes.url, namespace=name) as bus:
        entry = await bus.emit_command(
            STREAM, event_type="work:do", payload={}, request_id="r", reply_stream="mine"
        )
        slot, source = nodes.slot(f"{{{name}}}"), nodes.owner(f"{{{name}}}")
        target = next(each for each in nodes.nodes if each is not source)
        ids = {each: each.call("CLUSTER", "MYID") for each in (source, target)}
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        record, stream = bus.key("request:r"), bus.key(STREAM)
        before = source.call("DUMP", record)

        async def begin(seconds: float) -> Any:
            return await bus.session().requests.begin(
                record,
                stream,
                group="g",
                entry_id=entry,
                consumer="c",
                token="t",
                lease_ms=1000,
                retention=bus.retention,
                max_deliveries=5,
                trace=("", "", ""),
                deadline=Deadline(seconds),
            )

        with pytest.raises(SagastreamError, match="is being migrated"):
            await begin(0.2)
        assert source.call("DUMP", record) == before
        beginning = asyncio.ensure_future(begin(20.0))
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 50):
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for each in (target, source, *nodes.nodes):
            each.call("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        assert isinstance(await beginning, Claimed)
        stages = target.call("XRANGE", bus.key("mine"), "-", "+")
        assert len(stages) == 1, "it begins once, and on the new node"


async def test_schedules_and_events_stay_on_the_node_of_their_namespace(nodes: Cluster) -> None:
    """A schedule is set, fired and found, and a saga gets its event, whichever node it is."""
    saga = Saga(
        "trip",
        (WaitFor("go"), Step("do", STREAM, "work:do", lambda _given, _results: {})),
    )
    for number in range(4):
        async with Bus(nodes.url, namespace=f"s{number}") as bus:
            schedule = Schedule(
                name="tick", stream=STREAM, event_type="work:do", payload={}, every_s=1.0
            )
            runner = SagaRunner(bus, saga)
            async with CommandListener(bus, [work], schedules=[schedule]):
                serving = asyncio.create_task(runner.serve())
                await runner.start({}, saga_id="s")
                await signal_saga(bus, "s", "go")
                assert (await asyncio.wait_for(runner.wait("s"), 20)).status == "completed"
                await eventually(lambda: _has_fired(bus), within_s=20, why="it is fired")
                await end_tasks(serving)


async def _has_fired(bus: Bus) -> bool:
    (found,) = await find_schedules(bus)
    return found.fired > 0


def test_the_command_line_installs_there_too(
    nodes: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the URL of a cluster."""
    assert main(["--url", nodes.url, "--namespace", "any", "install"]) == 0
    assert "sagastream_" in capsys.readouterr().out
