"""Pictures of two missions: eight robots with known poses, four with unknown ones."""

import argparse
from pathlib import Path

from exploration_floors import drawn_floors
from exploration_slam import run

from app.exploration.se2 import compose
from app.exploration.simulation.simulate import simulate
from app.missions.picture import draw, save_picture


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    floors = drawn_floors()
    hall = floors["hall-1"]
    known = simulate(hall, 8, 1)
    title = "hall, 8 robots, known poses"
    picture = draw(known.grid, hall.frame, known.paths, known.frontiers_left, title=title)
    save_picture(options.out / "mission-known.png", picture)
    outcome = run(floors["cave-0"], 4, 1).outcome
    (joint,) = outcome.joint_maps()
    tracks = [
        [(float(x), float(y)) for x, y, _ in compose(transform, outcome.robots[slot].slam.poses)]
        for slot, transform in zip(joint.members, joint.transforms, strict=True)
    ]
    title = "cave, 4 robots, unknown poses, in the frame of robot 0"
    picture = draw(joint.grid, joint.frame, tracks, title=title)
    save_picture(options.out / "mission-slam.png", picture)


if __name__ == "__main__":
    main()
