"""What a mission's channels carry: its entries, turned into ROS 2 messages.

`docs/howto/foxglove.md` lists the channels. A converter is pure: it takes entries in order, and
returns messages, whose times never go back. A map is large, so it is written when it changed, and
a large one less often; the last one is always written.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from app.exploration.driver import LidarScan, Patch, Point, Pose
from app.exploration.grid import Grid, GridFrame
from app.exploration.merging.evidence import occupancy
from app.export import ros_messages as ros
from app.export.anchor import Anchor
from app.export.ros_messages import RosMessage, serialized
from app.missions.frames import Frame, RobotView

MAP_FRAME = "map"
_CELLS_PER_S = 1_000_000  # of maps, on average
_PATH_GROWTH = 1.1  # by which a path grows until it is written again
_NS_PER_S = 1_000_000_000
_FRONTIER: ros.Colour = (1.0, 0.6, 0.0, 0.9)
_ROBOT: ros.Colour = (0.1, 0.4, 0.9, 1.0)
_LOST: ros.Colour = (0.5, 0.5, 0.5, 0.7)
_TEXT: ros.Colour = (0.1, 0.1, 0.1, 1.0)
_TAKEN = {"anchor", "map", "mission", "tf", "tf_static"}
_LEVELS = {"failed": "ERROR", "cancelled": "WARN", "progress": "DEBUG"}


@dataclass(slots=True)
class _Track:
    """The path of a robot so far, and how many of its points are written."""

    points: list[Point] = field(default_factory=list)
    written: int = 0

    def extend(self, points: Sequence[Point]) -> None:
        """Add the points of a frame; those of a key frame are the whole path again."""
        if not points:
            return
        if self.points and self.points[-1] == points[0]:
            self.points.extend(points[1:])
        else:
            self.points, self.written = list(points), 0

    @property
    def is_due(self) -> bool:
        """Whether it has grown enough to be written again."""
        return len(self.points) > max(1.0, self.written * _PATH_GROWTH)


class MissionMessages:
    """Turns the entries of one mission into messages.

    Args:
        anchor: Where the map lies on the Earth; None if it is not known.

    Attributes:
        frame: The newest frame; None before the first.
        grid: The pose and resolution of its cells.
    """

    def __init__(self, anchor: Anchor | None = None) -> None:
        self.frame: Frame | None = None
        self.grid: GridFrame | None = None
        self._anchor = anchor
        self._tracks: dict[str, _Track] = {}
        self._names: dict[str, str] = {}
        self._written: tuple[Grid, GridFrame] | None = None
        self._next_map_ns = 0
        self._time_ns = 0
        self._epochs: dict[str, str] = {}
        self._is_anchor_written = False

    @property
    def paths(self) -> dict[str, list[Point]]:
        """The path of each robot so far, metres, map frame, by its name."""
        return {name: track.points for name, track in self._tracks.items()}

    def stage(self, time_ns: int, fields: Mapping[str, Any]) -> list[RosMessage]:
        """A stage of a step: a line of the log, and the text beside the map."""
        time_ns = self._moved_on(time_ns)
        kind, status = str(fields.get("event_type", "?")), str(fields.get("status", "?"))
        payload = fields.get("payload") or {}
        text = f"{status}{_detail_of(payload)}"
        request_id, epoch = str(fields.get("request_id", "?")), str(fields.get("epoch", ""))
        if epoch and self._epochs.setdefault(request_id, epoch) != epoch:
            self._epochs[request_id] = epoch
            text += ", by the handler that took over"
        level = _LEVELS.get(status, "INFO")
        return [
            self._log(time_ns, level, kind, f"{text}, request {request_id}"),
            self._step_marker(time_ns, f"{kind}: {text}"),
        ]

    def transition(self, time_ns: int, fields: Mapping[str, Any]) -> list[RosMessage]:
        """A transition of the journal: a line of the log."""
        time_ns = self._moved_on(time_ns)
        text = str(fields.get("status", "?"))
        if step := fields.get("step"):
            text += f"; {step} {fields.get('direction', '')} {fields.get('attempt', '')}"
            text += f" {fields.get('step_status', '')}"
        is_bad = fields.get("status") == "stuck" or fields.get("step_status") == "failed"
        is_undone = fields.get("status") in {"compensating", "compensated"}
        level = "ERROR" if is_bad else "WARN" if is_undone else "INFO"
        return [self._log(time_ns, level, "saga", text)]

    def note(self, time_ns: int, text: str) -> list[RosMessage]:
        """Something that is missing from the mission's data: a warning in the log."""
        time_ns = self._moved_on(time_ns)
        return [self._log(time_ns, "WARN", "export", text)]

    def recorded(self, time_ns: int, frame: Frame, grid: GridFrame) -> list[RosMessage]:
        """A recorded frame: the map if it is due, and all about the robots."""
        time_ns = self._moved_on(time_ns)
        self.frame, self.grid = frame, grid
        found = self._map(time_ns) if time_ns >= self._next_map_ns else []
        poses = [
            (self._frame_of(robot), self._name(robot.name), robot.pose)
            for robot in frame.robots
            if not robot.lost
        ]
        found += [
            serialized("/tf", time_ns, ros.transforms(time_ns, poses)),
            serialized("/mission/frontiers", time_ns, self._frontiers(time_ns, frame)),
            serialized("/mission/robots", time_ns, self._robots(time_ns, frame)),
            serialized("/mission/simulated_s", time_ns, ros.number(frame.simulated_s)),
            serialized("/mission/known_fraction", time_ns, ros.number(frame.fraction)),
        ]
        for robot in frame.robots:
            found += self._robot(time_ns, robot)
        if self._anchor and not self._is_anchor_written:
            self._is_anchor_written = True
            place = ros.fix(time_ns, MAP_FRAME, *self._anchor.place_of((0.0, 0.0)))
            found.append(serialized("/anchor", time_ns, place))
        return found

    def scans(self, time_ns: int, scans: Mapping[str, LidarScan]) -> list[RosMessage]:
        """Scans of robots, each in the frame of its lidar, `NAME/lidar`.

        Args:
            time_ns: When.
            scans: By the name of the robot.
        """
        time_ns = self._moved_on(time_ns)
        lidars = {f"{self._name(name)}/lidar": scan for name, scan in scans.items()}
        poses = [(MAP_FRAME, frame_id, scan.pose) for frame_id, scan in lidars.items()]
        found = [serialized("/tf", time_ns, ros.transforms(time_ns, poses))] if poses else []
        for frame_id, scan in lidars.items():
            message = ros.laser_scan(
                *(time_ns, frame_id, scan.ranges),
                angle_min=scan.angle_min - scan.pose.heading,
                angle_increment=scan.angle_increment,
                range_max=scan.range_max,
            )
            found.append(serialized(f"/{frame_id.removesuffix('/lidar')}/scan", time_ns, message))
        return found

    def own_map(
        self, time_ns: int, name: str, patch: Patch, grid: GridFrame, *, is_apart: bool
    ) -> list[RosMessage]:
        """The map of one robot, as it came back with it.

        Args:
            time_ns: When.
            name: The robot.
            patch: Its evidence.
            grid: The grid that the patch is a part of.
            is_apart: Whether the map has its own frame, `NAME/map`.
        """
        time_ns = self._moved_on(time_ns)
        if not patch.cells.size:
            return []
        rows, cols = patch.cells.shape
        part = replace(
            grid,
            rows=rows,
            cols=cols,
            origin_x=grid.origin_x + patch.col0 * grid.resolution,
            origin_y=grid.origin_y + patch.row0 * grid.resolution,
        )
        ros_name = self._name(name)
        frame_id = f"{ros_name}/map" if is_apart else MAP_FRAME
        message = ros.occupancy_grid(time_ns, frame_id, occupancy(patch.cells), part)
        return [serialized(f"/{ros_name}/map", time_ns, message)]

    def placed(self, time_ns: int, poses: Mapping[str, Pose]) -> list[RosMessage]:
        """Where the frames of the robots' own maps lie in the merged map."""
        time_ns = self._moved_on(time_ns)
        found = [(MAP_FRAME, f"{self._name(name)}/map", pose) for name, pose in poses.items()]
        return [serialized("/tf_static", time_ns, ros.transforms(time_ns, found))] if found else []

    def finish(self) -> list[RosMessage]:
        """What was held back: the last map and the whole paths."""
        if self.frame is None:
            return []
        found = self._map(self._time_ns)
        for name, track in self._tracks.items():
            if track.written < len(track.points):
                found.append(self._path(self._time_ns, name, track))
        return found

    def _moved_on(self, time_ns: int) -> int:
        self._time_ns = max(self._time_ns, time_ns)
        return self._time_ns

    def _name(self, name: str) -> str:
        """The robot's name as ROS allows it: letters, digits and `_`; two robots keep two names."""
        if name not in self._names:
            base = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
            found = f"robot_{base}" if base[0].isdigit() or base in _TAKEN else base
            others = set(self._names.values())
            same = (f"{found}_{number}" for number in itertools.count(2))
            candidates = itertools.chain((found,), same)
            self._names[name] = next(each for each in candidates if each not in others)
        return self._names[name]

    def _frame_of(self, robot: RobotView) -> str:
        return f"{self._name(robot.name)}/map" if robot.apart else MAP_FRAME

    def _map(self, time_ns: int) -> list[RosMessage]:
        assert self.frame is not None
        assert self.grid is not None
        cells = self.frame.cells
        if self._written is not None:
            before, frame = self._written
            if frame == self.grid and (before is cells or np.array_equal(before, cells)):
                return []
        self._written = (cells, self.grid)
        self._next_map_ns = time_ns + cells.size * _NS_PER_S // _CELLS_PER_S
        message = ros.occupancy_grid(time_ns, MAP_FRAME, cells, self.grid)
        return [serialized("/map", time_ns, message)]

    def _frontiers(self, time_ns: int, frame: Frame) -> Any:
        dots = ros.marker(
            time_ns, MAP_FRAME, "SPHERE_LIST", colour=_FRONTIER, points=frame.frontiers
        )
        return ros.marker_array([dots])

    def _robots(self, time_ns: int, frame: Frame) -> Any:
        found = []
        for slot, robot in enumerate(frame.robots):
            frame_id = self._frame_of(robot)
            colour, text = (_LOST, f"{robot.name}: lost") if robot.lost else (_ROBOT, robot.name)
            for kind, label in (("ARROW", ""), ("TEXT_VIEW_FACING", text)):
                made = ros.marker(
                    time_ns,
                    frame_id,
                    kind,
                    namespace=kind.lower(),
                    number=slot,
                    pose=robot.pose,
                    colour=colour,
                    text=label,
                )
                found.append(made)
        return ros.marker_array(found)

    def _robot(self, time_ns: int, robot: RobotView) -> list[RosMessage]:
        name, frame_id = self._name(robot.name), self._frame_of(robot)
        found = []
        if not robot.lost:
            pose = ros.pose_stamped(time_ns, frame_id, robot.pose)
            found.append(serialized(f"/{name}/pose", time_ns, pose))
            if self._anchor and not robot.apart:
                place = self._anchor.place_of((robot.pose.x, robot.pose.y))
                found.append(serialized(f"/{name}/fix", time_ns, ros.fix(time_ns, name, *place)))
        if robot.goal:
            x, y = robot.goal
            goal = Pose(x, y, math.atan2(y - robot.pose.y, x - robot.pose.x))
            message = ros.pose_stamped(time_ns, frame_id, goal)
            found.append(serialized(f"/{name}/goal", time_ns, message))
        if robot.plan:
            plan = ros.path(time_ns, frame_id, robot.plan)
            found.append(serialized(f"/{name}/plan", time_ns, plan))
        track = self._tracks.setdefault(robot.name, _Track())
        track.extend(robot.path)
        if track.is_due:
            found.append(self._path(time_ns, robot.name, track))
        return found

    def _path(self, time_ns: int, name: str, track: _Track) -> RosMessage:
        track.written = len(track.points)
        message = ros.path(time_ns, MAP_FRAME, track.points)
        return serialized(f"/{self._name(name)}/path", time_ns, message)

    def _log(self, time_ns: int, level: str, name: str, text: str) -> RosMessage:
        return serialized("/mission/log", time_ns, ros.log_line(time_ns, level, name, text))

    def _step_marker(self, time_ns: int, text: str) -> RosMessage:
        corner = Pose(0.0, 0.0)
        if self.grid:
            top = self.grid.origin_y + self.grid.rows * self.grid.resolution
            corner = Pose(self.grid.origin_x, top + 0.5)
        message = ros.marker(
            time_ns, MAP_FRAME, "TEXT_VIEW_FACING", pose=corner, size_m=0.5, colour=_TEXT, text=text
        )
        return serialized("/mission/steps", time_ns, ros.marker_array([message]))


def _detail_of(payload: Mapping[str, Any]) -> str:
    """The error of a failed stage, or the share that a progress has reached."""
    if payload.get("error_type"):
        return f": {payload['error_type']}: {payload.get('message', '')}"
    fraction = payload.get("fraction")
    return f" {fraction:.0%}" if isinstance(fraction, int | float) else ""
