import asyncio

from app.config import Settings
from app.missions.mission_saga import mission_saga
from app.observability.gauges import ServerGauges
from sagastream import Bus
from sagastream.saga import SagaRunner
from tests.plain_client import add_entry, call, deliver
from tests.polling import eventually

STREAM = "gauge:commands"


async def test_gauges_report_depth_age_and_dead_letters(bus: Bus) -> None:
    """One of three commands is pending for long, and one is a dead letter."""
    for number in range(3):
        await add_entry(bus, STREAM, {"n": number}, entry_id=f"{1000 + number}-0")
    await add_entry(bus, f"{STREAM}:dead", {"n": 0})
    await deliver(bus, STREAM, count=1)
    await call(bus, "ZADD", "sagas:mission:stuck", 1, "m")
    gauges = ServerGauges(bus, [STREAM], SagaRunner(bus, mission_saga(Settings())))
    watching = asyncio.create_task(gauges.watch())
    await eventually(lambda: gauges.observations, within_s=10, why="the gauges were read once")
    watching.cancel()
    await asyncio.wait([watching])
    values = {
        (name, *(one.attributes or {}).values()): one.value
        for name, observations in gauges.observations.items()
        for one in observations
    }
    assert values[("sagastream.stream.depth", STREAM)] == 2
    assert values[("sagastream.stream.pending", STREAM)] == 1
    assert values[("sagastream.stream.pending.age", STREAM)] > 1_000_000
    assert values[("sagastream.stream.dead_letters", STREAM)] == 1
    assert values[("sagastream.sagas", "mission", "stuck")] == 1
    assert values[("sagastream.sagas", "mission", "open")] == 0
    for name in (STREAM, f"{STREAM}:dead", "sagas:mission:stuck"):
        await call(bus, "DEL", name)
