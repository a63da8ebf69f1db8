"""CARMEN logs of others, mapped from raw odometry: trajectory error against their corrected poses."""

import argparse
import gzip
from pathlib import Path

import numpy as np
from exploration_log import mapped

from app.exploration.evaluation.fidelity import trajectory_error
from app.exploration.se2 import Transform
from app.exploration.simulation.log_replay import read_carmen

_FOUR_SIGMAS = 4.0


def corrected(path: Path) -> Transform:
    """Read the poses that the log's makers computed, (n, 3): the fields behind the ranges."""
    with gzip.open(path, "rt") as file:
        lines = [line.split() for line in file if line.startswith("FLASER ")]
    return np.array(
        [[float(f) for f in line[2 + int(line[1]) : 5 + int(line[1])]] for line in lines]
    )


def main() -> None:
    """Print one row of a table for each log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path, nargs="+")
    options = parser.parse_args()
    mapped(read_carmen(options.logs[0])[:60], np.zeros(3))  # compiles
    print("| log | scans | odometry, m | SLAM, m | loops | contradicted | median, ms | p99, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for path in options.logs:
        records, truth = read_carmen(path), corrected(path)
        odometry = np.array([record.odometry for record in records])
        slam, spent = mapped(records, odometry[0])
        loops = [edge for edge in slam.graph.edges if not edge.trusted]
        against = sum(edge.residual_sigmas(slam.poses) > _FOUR_SIGMAS for edge in loops)
        middle, slow = 1e3 * np.percentile(spent, [50, 99])
        print(f"| {path.name.partition('.')[0]} | {len(records)} | {trajectory_error(odometry, truth):.2f} "
              f"| {trajectory_error(slam.poses, truth):.3f} | {len(loops)} | {against} "
              f"| {middle:.1f} | {slow:.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
