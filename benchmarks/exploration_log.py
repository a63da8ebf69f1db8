"""A real log: SLAM over all of it, and over two halves that are merged without known poses."""

import argparse
import math
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from exploration_pairs import redrawn

from app.exploration.mapping.slam import SlamMap
from app.exploration.merging.registration import DEFAULT_GATE, register
from app.exploration.se2 import Transform, between, compose, inverse, wrap
from app.exploration.simulation.log_replay import LogRecord, read_carmen
from app.missions.picture import draw, save_picture

_RESOLUTION = 0.05


def mapped(records: Sequence[LogRecord], start: Transform) -> tuple[SlamMap, list[float]]:
    """Run SLAM from raw odometry; return the map and the CPU seconds of each update."""
    slam = SlamMap()
    slam.begin(records[0].scan, start)
    spent = []
    for before, after in pairwise(records):
        began = time.process_time()
        slam.add(after.scan, between(before.odometry, after.odometry))
        spent.append(time.process_time() - began)
    slam.solve()
    return slam, spent


def show(path: Path, slam: SlamMap, poses: Transform, title: str) -> None:
    """Write a picture of a map and its track."""
    grid, frame = redrawn(slam.keyframes, poses, _RESOLUTION)
    track = [(float(x), float(y)) for x, y, _ in poses]
    save_picture(path, draw(grid, frame, [track], title=title))


def main() -> None:
    """Print the figures and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    records = read_carmen(options.log)
    odometry = np.array([record.odometry for record in records])
    mapped(records[:40], odometry[0])  # compiles
    whole, spent = mapped(records, odometry[0])
    off = between(odometry[-1], whole.poses[-1])
    loops = [edge for edge in whole.graph.edges if edge.end - edge.start > len(records) // 2]
    errors = [between(edge.motion, between(*whole.poses[[edge.start, edge.end]])) for edge in loops]
    print(f"scans {len(records)}, mean CPU time of an update {1e3 * float(np.mean(spent)):.1f} ms")
    print(
        f"odometry error at the end: {math.hypot(off[0], off[1]):.2f} m, {math.degrees(off[2]):.1f} deg"
    )
    print(f"edges over half the log: {len(loops)}, RMS residual "
          f"{float(np.sqrt(np.mean(np.square(errors)[:, :2].sum(axis=1)))):.3f} m")  # fmt: skip
    show(options.out / "log-odometry.png", whole, odometry, "raw odometry")
    show(options.out / "log-slam.png", whole, whole.poses, "SLAM, loop closed")

    half = len(records) // 2
    one, _ = mapped(records[:half], np.array([3.0, -8.0, 2.0]))
    two, _ = mapped(records[half:], np.array([-5.0, 1.0, -0.7]))
    began = time.process_time()
    found = register(
        *redrawn(one.keyframes, one.poses, _RESOLUTION),
        *redrawn(two.keyframes, two.poses, _RESOLUTION),
    )
    assert found is not None
    print(f"halves: accepted {DEFAULT_GATE.accepts(found)}, {time.process_time() - began:.2f} s CPU,"
          f" agreement {found.agreement:.3f}, walls {found.walls:.1f} m")  # fmt: skip
    place = compose(whole.poses[0], inverse(one.poses[0]))
    second = compose(compose(place, found.transform), two.poses)
    errors_m = np.hypot(*(second - whole.poses[half:])[:, :2].T)
    turn = [
        abs(wrap(float(a - b))) for a, b in zip(second[:, 2], whole.poses[half:, 2], strict=True)
    ]
    print(f"second half against the whole: RMS {float(np.sqrt(np.mean(errors_m**2))):.3f} m, "
          f"largest {errors_m.max():.3f} m, mean {math.degrees(float(np.mean(turn))):.2f} deg")  # fmt: skip
    joined = [*one.keyframes, *two.keyframes]
    poses = np.vstack([one.poses, compose(found.transform, two.poses)])
    grid, frame = redrawn(joined, poses, _RESOLUTION)
    tracks = [[(float(x), float(y)) for x, y, _ in part] for part in (poses[:half], poses[half:])]
    save_picture(
        options.out / "log-merged.png",
        draw(grid, frame, tracks, title="two halves, each in its own frame, merged"),
    )


if __name__ == "__main__":
    main()
