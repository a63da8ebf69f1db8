"""Missions that no worker ran: frames and stages, written as handlers write them."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.exploration.driver import Pose
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridFrame
from app.missions.frames import Frame, FrameEncoder, RobotView
from app.missions.mission_saga import mission_runner
from sagastream import Bus
from tests.plain_client import add_entry

MISSION = "mission-one"
GRID = GridFrame(40, 60, 0.1, -1.0, -2.0)


def random_cells(seed: int, grid: GridFrame = GRID) -> Grid:
    """Cells of all three kinds."""
    values = np.array([UNKNOWN, FREE, OCCUPIED], np.int8)
    return np.random.default_rng(seed).choice(values, (grid.rows, grid.cols))


def make_frame(number: int, names: Sequence[str] = ("robot-01", "robot-02"), **other: Any) -> Frame:
    """A frame whose robots have driven `number` metres along the x axis."""
    robots = tuple(
        RobotView(
            name,
            Pose(float(number), float(slot), 0.5),
            float(number),
            goal=(5.0, 1.0),
            path=[(float(x), float(slot) + x % 2) for x in range(number + 1)],
            plan=[(float(number), 0.0), (5.0, 1.0)],
        )
        for slot, name in enumerate(names)
    )
    given: dict[str, Any] = {
        "simulated_s": 10.0 * number,
        "fraction": 0.5,
        "cells": random_cells(number),
    } | other
    return Frame(**({"robots": robots, "frontiers": ((1.0, 1.0),)} | given))


async def record_frames(
    bus: Bus,
    frames: Sequence[Frame],
    *,
    at_ms: int,
    grid: GridFrame = GRID,
    every_ms: int = 500,
    mission: str = MISSION,
) -> None:
    """Record frames as one handler does."""
    encoder = FrameEncoder(grid)
    for number, frame in enumerate(frames):
        for sequence, piece in enumerate(encoder.encode(frame)):
            fields = {
                "request_id": "explore",
                "event_type": "exploration:perform",
                "status": "progress",
                "payload": json.dumps(piece),
            }
            entry_id = f"{at_ms + number * every_ms}-{sequence}"
            await add_entry(bus, f"missions:{mission}:frames", fields, entry_id=entry_id)


async def add_stage(
    bus: Bus, event_type: str, status: str, payload: dict[str, Any], *, at_ms: int, epoch: int = 1
) -> None:
    """Add a stage of a step to the mission's stream."""
    fields = {
        "request_id": event_type,
        "event_type": event_type,
        "status": status,
        "payload": json.dumps(payload),
        "epoch": str(epoch),
    }
    await add_entry(bus, f"saga:{MISSION}:replies", fields, entry_id=f"{at_ms}-0")


async def start_mission(mission: str = MISSION, **given: Any) -> None:
    """Write the journal of a mission that no worker runs."""
    parameters = {"mission": mission, "area": "room", "robot_count": 2, "seed": 0} | given
    await mission_runner().start(parameters, saga_id=mission)
