"""Encodes drive reports for messages: small values as JSON, large ones stored and referenced."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.exploration.driver import DriveReport, LidarScan, Patch, Pose
from app.redis_utils import get_blob, put_blob

_SCAN_BEAMS = 360
# Beyond what can be written as a range, in millimetres.
_NO_RETURN, _FAILED = 65_534, 65_535


async def encode_report(report: DriveReport, *, ttl_s: int | None = None) -> dict[str, Any]:
    """Encode a drive report as JSON; store the cells of its patch.

    Args:
        report: The drive report.
        ttl_s: Seconds to keep the cells; None for the setting `blob_ttl_s`.
    """
    return {
        "time": report.time,
        "pose": [report.pose.x, report.pose.y, report.pose.heading],
        "distance": report.distance,
        "path": [list(point) for point in report.path],
        "reached": report.reached,
        "arrived": report.arrived,
        "blocked": report.blocked,
        "patch": await encode_patch(report.patch, ttl_s=ttl_s),
        **({"scan": encode_scan(report.scan)} if report.scan else {}),
    }


async def decode_report(encoded: Mapping[str, Any]) -> DriveReport:
    """Decode what `encode_report` encoded.

    Raises:
        BlobMissing: The cells of the patch are no longer stored.
    """
    return DriveReport(
        time=encoded["time"],
        pose=Pose(*encoded["pose"]),
        distance=encoded["distance"],
        path=tuple((x, y) for x, y in encoded["path"]),
        reached=encoded["reached"],
        arrived=encoded["arrived"],
        blocked=encoded["blocked"],
        patch=await decode_patch(encoded["patch"]),
        scan=decode_scan(encoded["scan"]) if "scan" in encoded else None,
    )


def encode_scan(scan: LidarScan) -> dict[str, Any]:
    """Encode a scan as JSON, with millimetres and at most 360 beams: a kilobyte."""
    every = -(-len(scan.ranges) // _SCAN_BEAMS)
    ranges = scan.ranges[::every]
    millimetres = np.where(np.isfinite(ranges), np.minimum(ranges * 1000.0, _NO_RETURN), _NO_RETURN)
    millimetres[np.isnan(ranges)] = _FAILED
    return {
        "pose": [scan.pose.x, scan.pose.y, scan.pose.heading],
        "angles": [scan.angle_min, scan.angle_increment * every],
        "range_max": scan.range_max,
        "ranges_mm": base64.b64encode(millimetres.astype("<u2").tobytes()).decode(),
    }


def decode_scan(encoded: Mapping[str, Any]) -> LidarScan:
    """Decode what `encode_scan` encoded.

    Raises:
        LookupError: A field is missing.
        TypeError: A field has another type.
        ValueError: A field has a value that cannot be used.
    """
    millimetres = np.frombuffer(base64.b64decode(encoded["ranges_mm"], validate=True), "<u2")
    ranges = millimetres / 1000.0
    ranges[millimetres == _NO_RETURN] = np.inf
    ranges[millimetres == _FAILED] = np.nan
    first, step = encoded["angles"]
    numbers = [*encoded["pose"], first, step, encoded["range_max"]]
    if not np.isfinite(np.array(numbers, np.float64)).all() or len(ranges) > _SCAN_BEAMS:
        raise ValueError("a scan has a number that is not finite, or too many beams")
    return LidarScan(Pose(*encoded["pose"]), first, step, encoded["range_max"], ranges)


async def encode_patch(patch: Patch, *, ttl_s: int | None = None) -> dict[str, Any]:
    """Encode a patch as JSON: its position, its shape and a reference to its stored cells."""
    rows, cols = patch.cells.shape
    cells = patch.cells.tobytes()
    reference = await put_blob(cells, ttl_s=ttl_s) if cells else ""
    return {"row0": patch.row0, "col0": patch.col0, "shape": [rows, cols], "cells": reference}


async def decode_patch(encoded: Mapping[str, Any]) -> Patch:
    """Decode what `encode_patch` encoded.

    Raises:
        BlobMissing: The cells are no longer stored.
    """
    data = await get_blob(encoded["cells"]) if encoded["cells"] else b""
    cells = np.frombuffer(data, np.int8).reshape(encoded["shape"])
    return Patch(encoded["row0"], encoded["col0"], cells)


async def store_json(value: Any) -> str:
    """Store a JSON value that may be too large for a message; return its reference."""
    return await put_blob(json.dumps(value).encode())


async def load_json(reference: str) -> Any:
    """Load what `store_json` stored.

    Raises:
        BlobMissing: The value is no longer stored.
    """
    return json.loads(await get_blob(reference))
