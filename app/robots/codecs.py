"""How legs cross a process border: small JSON, big parts by their hash."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.exploration.driver import Leg, Patch, Pose
from app.redis_utils import get_blob, put_blob


async def send_leg(leg: Leg, *, ttl_s: int | None = None) -> dict[str, Any]:
    """A leg as JSON; its patch is stored and named."""
    return {
        "time": leg.time,
        "pose": [leg.pose.x, leg.pose.y, leg.pose.heading],
        "distance": leg.distance,
        "path": [list(point) for point in leg.path],
        "reached": leg.reached,
        "arrived": leg.arrived,
        "blocked": leg.blocked,
        "patch": await send_patch(leg.patch, ttl_s=ttl_s),
    }


async def receive_leg(sent: Mapping[str, Any]) -> Leg:
    """The inverse of `send_leg`.

    Raises:
        BlobMissing: The patch is no longer stored.
    """
    return Leg(
        time=sent["time"],
        pose=Pose(*sent["pose"]),
        distance=sent["distance"],
        path=tuple((x, y) for x, y in sent["path"]),
        reached=sent["reached"],
        arrived=sent["arrived"],
        blocked=sent["blocked"],
        patch=await receive_patch(sent["patch"]),
    )


async def send_patch(patch: Patch, *, ttl_s: int | None = None) -> dict[str, Any]:
    """A patch as JSON: where it lies, its shape, and the reference of its cells."""
    rows, cols = patch.cells.shape
    cells = patch.cells.tobytes()
    reference = await put_blob(cells, ttl_s=ttl_s) if cells else ""
    return {"row0": patch.row0, "col0": patch.col0, "shape": [rows, cols], "cells": reference}


async def receive_patch(sent: Mapping[str, Any]) -> Patch:
    """The inverse of `send_patch`.

    Raises:
        BlobMissing: The cells are no longer stored.
    """
    data = await get_blob(sent["cells"]) if sent["cells"] else b""
    cells = np.frombuffer(data, np.int8).reshape(sent["shape"])
    return Patch(sent["row0"], sent["col0"], cells)


async def send_json(value: Any) -> str:
    """Store a value that may be too large for a message; returns the reference."""
    return await put_blob(json.dumps(value).encode())


async def receive_json(reference: str) -> Any:
    """The inverse of `send_json`.

    Raises:
        BlobMissing: It is no longer stored.
    """
    return json.loads(await get_blob(reference))
