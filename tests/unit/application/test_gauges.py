import asyncio

from app.config import Settings
from app.missions.mission_saga import mission_saga
from app.observability.gauges import ServerGauges
from sagastream import Bus
from sagastream.saga import SagaRunner

STREAM = "gauge:commands"


async def test_gauges_report_depth_age_and_dead_letters(bus: Bus) -> None:
    """One of three commands is pending for long, and one is a dead letter."""
    call, key = bus.command, bus.key
    for number in range(3):
        await call("XADD", key(STREAM), f"{1000 + number}-0", "n", number)
    await call("XADD", key(f"{STREAM}:dead"), "*", "n", 0)
    await call("XGROUP", "CREATE", key(STREAM), "sagastream", "0")
    await call("XREADGROUP", "GROUP", "sagastream", "me", "COUNT", 1, "STREAMS", key(STREAM), ">")
    await call("ZADD", key("sagas:mission:stuck"), 1, "m")
    gauges = ServerGauges(bus, [STREAM], SagaRunner(bus, mission_saga(Settings())))
    watching = asyncio.create_task(gauges.watch())
    while not gauges.observations:
        await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.wait([watching])
    told = {
        (name, *(one.attributes or {}).values()): one.value
        for name, observations in gauges.observations.items()
        for one in observations
    }
    assert told[("sagastream.stream.depth", STREAM)] == 2
    assert told[("sagastream.stream.pending", STREAM)] == 1
    assert told[("sagastream.stream.pending.age", STREAM)] > 1_000_000
    assert told[("sagastream.stream.dead_letters", STREAM)] == 1
    assert told[("sagastream.sagas", "mission", "stuck")] == 1
    assert told[("sagastream.sagas", "mission", "open")] == 0
    await call("DEL", key(STREAM), key(f"{STREAM}:dead"), key("sagas:mission:stuck"))
