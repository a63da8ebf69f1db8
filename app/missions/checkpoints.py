"""How a coordinator's state is kept for whoever takes over: as `app.robots.codecs` keeps legs."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.config import get_settings
from app.exploration.planning.coordinator import State
from app.redis_utils import get_blob, put_blob
from app.robots.codecs import receive_json, receive_leg, send_leg


async def send_state(state: State) -> dict[str, Any]:
    """A coordinator's state as JSON; its big parts are stored, for as long as checkpoints live."""
    ttl_s = get_settings().checkpoint_ttl_s
    legs = [await send_leg(leg, ttl_s=ttl_s) for leg in state.legs]
    return {
        "legs": await put_blob(json.dumps(legs).encode(), ttl_s=ttl_s),
        "lost": list(state.lost),
        "rounds": state.rounds,
        "retried": state.retried,
        "shape": list(state.visits.shape),
        "visits": await put_blob(state.visits.tobytes(), ttl_s=ttl_s),
        "bumped": await put_blob(state.bumped.tobytes(), ttl_s=ttl_s),
    }


async def receive_state(sent: Mapping[str, Any]) -> State:
    """The inverse of `send_state`.

    Raises:
        BlobMissing: A part of it is no longer stored.
    """
    shape = tuple(sent["shape"])
    legs = [await receive_leg(leg) for leg in await receive_json(sent["legs"])]
    return State(
        legs=tuple(legs),
        lost=tuple(sent["lost"]),
        rounds=sent["rounds"],
        retried=sent["retried"],
        visits=np.frombuffer(await get_blob(sent["visits"]), np.uint8).reshape(shape),
        bumped=np.frombuffer(await get_blob(sent["bumped"]), np.bool_).reshape(shape),
    )
