"""`mission:start`: missions that are started by a command."""

from pathlib import Path
from typing import Any

import pytest

from app.command_handlers.handlers.start_mission import start_mission
from app.config import choose_settings, get_settings
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.missions.mission_saga import mission_runner
from app.redis_utils import request_and_reply
from sagastream import Bus, RequestFailed
from tests.listeners import listening

pytestmark = pytest.mark.blocking


@pytest.fixture(autouse=True)
def area(app_bus: Bus, tmp_path: Path) -> str:
    """A floor of one room."""
    floor = draw_rooms(1)
    save_map(tmp_path / "room.yaml", floor.grid, floor.frame)
    choose_settings(map_dir=tmp_path)
    return "room"


async def _start(**payload: Any) -> str:
    reply = await request_and_reply(get_settings().mission_stream, "mission:start", payload)
    return str(reply["payload"]["saga_id"])


async def test_a_command_starts_a_mission(app_bus: Bus, sent: list[tuple[str, str]]) -> None:
    """The reply has the id at once, the journal exists, and the first step is sent."""
    async with listening(app_bus, [start_mission]):
        saga_id = await _start(area="room", robot_count=2, seed=3)
    journal = await mission_runner().journal(saga_id)
    assert journal.input == {"area": "room", "robot_count": 2, "seed": 3, "mission": saga_id}
    assert sent == [(saga_id, "allocate_resources")]


async def test_a_mission_may_have_unknown_poses(app_bus: Bus, sent: list[tuple[str, str]]) -> None:
    """`known_poses` of the command is in the mission's input."""
    async with listening(app_bus, [start_mission]):
        saga_id = await _start(area="room", robot_count=2, known_poses=False)
    journal = await mission_runner().journal(saga_id)
    assert journal.input["known_poses"] is False
    assert sent == [(saga_id, "allocate_resources")]


async def test_a_mission_may_end_early(app_bus: Bus, sent: list[tuple[str, str]]) -> None:
    """`until` of the command is in the mission's input."""
    async with listening(app_bus, [start_mission]):
        saga_id = await _start(area="room", robot_count=2, until="time:60")
    journal = await mission_runner().journal(saga_id)
    assert journal.input["until"] == "time:60"
    assert sent == [(saga_id, "allocate_resources")]


async def test_one_key_is_one_mission(app_bus: Bus, sent: list[tuple[str, str]]) -> None:
    """The same command twice starts one mission; other parameters under the same key are an error."""
    async with listening(app_bus, [start_mission]):
        first = await _start(area="room", robot_count=2, idempotency_key="k")
        assert await _start(area="room", robot_count=2, idempotency_key="k") == first
        with pytest.raises(RequestFailed, match="another input"):
            await _start(area="room", robot_count=3, idempotency_key="k")
        assert await _start(area="room", robot_count=2, idempotency_key="other") != first
    assert len(await mission_runner().journals()) == 2


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"robot_count": 2}, "area: must be text"),
        ({"area": "room"}, "robot_count: must be a whole number"),
        ({"area": "room", "robot_count": True}, "robot_count: must be a whole number"),
        ({"area": "room", "robot_count": 0}, "robots: must be from 1 to 64"),
        ({"area": "room", "robot_count": 1, "seed": "x"}, "seed: must be a whole number"),
        (
            {"area": "room", "robot_count": 1, "known_poses": 1},
            "known_poses: must be true or false",
        ),
        ({"area": "room", "robot_count": 1, "robots": 1}, "robots: is not a field"),
        ({"area": "nowhere", "robot_count": 1}, "nowhere"),
        ({"area": "room", "robot_count": 1, "until": 5}, "until: must be text"),
        ({"area": "room", "robot_count": 2, "radio": "wifi"}, "radio: 'wifi' is no radio model"),
        (
            {"area": "room", "robot_count": 2, "radio": "ir2", "known_poses": False},
            "radio: robots with unknown poses need a perfect radio",
        ),
        (
            {"area": "room", "robot_count": 1, "until": "coverage:95"},
            "until: '95' is no number for coverage; give everything, coverage:SHARE",
        ),
    ],
)
async def test_invalid_parameters_name_the_field(
    app_bus: Bus, payload: dict[str, Any], message: str
) -> None:
    """No mission is started."""
    async with listening(app_bus, [start_mission]):
        with pytest.raises(RequestFailed, match=message):
            await _start(**payload)
    assert await mission_runner().journals() == []
