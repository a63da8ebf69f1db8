"""Checkpoints: an encoded planner state from which another handler continues an exploration."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.config import get_settings
from app.exploration.planning.robot_history import PlannerState
from app.redis_utils import get_blob, put_blob
from app.robots.codecs import decode_report, encode_report, load_json


async def encode_state(state: PlannerState) -> dict[str, Any]:
    """Encode a planner's state as JSON; store its large parts for `checkpoint_ttl_s` seconds."""
    ttl_s = get_settings().checkpoint_ttl_s
    reports = [await encode_report(report, ttl_s=ttl_s) for report in state.reports]
    return {
        "legs": await put_blob(json.dumps(reports).encode(), ttl_s=ttl_s),
        "lost": list(state.lost),
        "rounds": state.rounds,
        "retried": state.retried,
        "shape": list(state.visits.shape),
        "visits": await put_blob(state.visits.tobytes(), ttl_s=ttl_s),
        "bumped": await put_blob(state.collision_cells.tobytes(), ttl_s=ttl_s),
    }


async def decode_state(encoded: Mapping[str, Any]) -> PlannerState:
    """Decode what `encode_state` encoded.

    Raises:
        BlobMissing: A part of the state is no longer stored.
    """
    shape = tuple(encoded["shape"])
    reports = [await decode_report(report) for report in await load_json(encoded["legs"])]
    return PlannerState(
        reports=tuple(reports),
        lost=tuple(encoded["lost"]),
        rounds=encoded["rounds"],
        retried=encoded["retried"],
        visits=np.frombuffer(await get_blob(encoded["visits"]), np.uint8).reshape(shape),
        collision_cells=np.frombuffer(await get_blob(encoded["bumped"]), np.bool_).reshape(shape),
    )
