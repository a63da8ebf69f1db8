"""Missions on a server that nobody runs: a recording of an earlier commit, and a team of 64 robots."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from app.config import ROOT
from app.exploration.driver import Point, Pose
from app.exploration.grid import UNKNOWN, GridFrame
from app.exploration.map_files import load_map
from app.exploration.planning.remaining import Remaining
from app.missions.frames import Frame, FrameEncoder, RobotView

RECORDINGS = Path(__file__).parents[1] / "recordings"
TEAM = "team-of-64"
LONG = "long-mission"
_ROBOTS = 64
FRAMES = 24


def put_recording(client: Any, saga_id: str = "") -> str:
    """Put the recording of an earlier commit on a server, once or again; returns the mission's id.

    Args:
        client: A client of the server.
        saga_id: The mission's id, if not that of the recording.
    """
    text = (RECORDINGS / "v1-rooms.json").read_text()
    recorded = json.loads(text)["saga_id"]
    told = json.loads(text.replace(recorded, saga_id or recorded))
    for name, fields in told["hashes"].items():
        client.hset(name, mapping=fields)
    for name, entries in told["streams"].items():
        client.delete(name)
        for entry_id, fields in entries:
            client.xadd(name, fields, id=entry_id)
    return str(told["saga_id"])


def put_team(client: Any) -> str:
    """Put an ended mission of 64 robots on the office floor on a server; returns its id."""
    put_recording(client, TEAM)
    stream = f"missions:{TEAM}:frames"
    (first, *_) = client.xrange(stream)
    client.delete(stream)
    for number, piece in enumerate(_pieces()):
        client.xadd(
            stream, {**first[1], "payload": json.dumps(piece)}, id=f"{first[0][:13]}-{number}"
        )
    return TEAM


def put_long(client: Any, pieces: Iterable[dict[str, object]]) -> str:
    """Put an ended mission with these pieces as its recording on a server; returns its id."""
    put_recording(client, LONG)
    stream = f"missions:{LONG}:frames"
    (first, *_) = client.xrange(stream)
    client.delete(stream)
    for number, piece in enumerate(pieces):
        fields = {**first[1], "payload": json.dumps(piece)}
        client.xadd(stream, fields, id=f"{int(first[0][:13]) + number}-0")
    return LONG


def _pieces() -> Iterator[dict[str, object]]:
    floor = load_map(ROOT / "maps" / "office.yaml")
    rows, cols = floor.grid.shape
    frame = GridFrame(
        rows, cols, floor.frame.resolution, floor.frame.origin_x, floor.frame.origin_y
    )
    encoder = FrameEncoder(frame)
    x = np.arange(cols)[None, :]
    for number in range(FRAMES):
        seen = x < cols * (number + 2) / (FRAMES + 1)
        robots = tuple(_robot(slot, number, frame) for slot in range(_ROBOTS))
        yield from encoder.encode(
            Frame(
                simulated_s=10.0 * number,
                fraction=(number + 1) / FRAMES,
                robots=robots,
                frontiers=tuple(
                    frame.centre(row, int(cols * (number + 2) / (FRAMES + 1)) - 1)
                    for row in range(5, rows, 20)
                ),
                cells=np.where(seen, floor.grid, UNKNOWN).astype(np.int8),
                remaining=Remaining(90.0, 45.0, 180.0, 123.0) if number else None,
            )
        )


def _robot(slot: int, number: int, frame: GridFrame) -> RobotView:
    """A robot on a grid of eight by eight that drives to the right in waves."""

    def place(step: float) -> Point:
        wide, high = frame.cols * frame.resolution, frame.rows * frame.resolution
        x = frame.origin_x + wide * (slot % 8 + 0.2 + 0.6 * step / FRAMES) / 8
        y = frame.origin_y + high * (slot // 8 + 0.5 + 0.2 * math.sin(step / 2)) / 8
        return (x, y)

    path = [place(step / 4) for step in range(4 * number + 1)]
    goal = place(number + 6)
    return RobotView(
        name=f"robot-{slot + 1:02}",
        pose=Pose(*path[-1], slot / 10),
        driven_m=float(number),
        goal=goal,
        lost="its battery is empty" if slot == 63 else "",
        path=path,
        plan=[place(number + step / 2) for step in range(13)],
    )
