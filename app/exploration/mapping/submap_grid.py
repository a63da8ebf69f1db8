"""One robot's submap drawn on a grid, and the patches of it that changed.

New keyframes are added to the grid. When solving the graph moved old keyframes by more than a
fraction of a cell, the grid is redrawn, and the patch covers the old and the new cells.
"""

from collections.abc import Sequence

import numpy as np

from app.exploration.driver import EMPTY_PATCH, Patch
from app.exploration.grid import Box, GridFrame, LogOdds, bounding_box
from app.exploration.mapping.keyframes import Keyframe, draw_keyframes
from app.exploration.se2 import Transform

_REDRAW_M = 0.02
_REDRAW_RAD = 0.004


class SubmapGrid:
    """An evidence grid that follows the poses of keyframes.

    Args:
        frame: of the grid, in the map's frame.
    """

    def __init__(self, frame: GridFrame) -> None:
        self._frame = frame
        self._evidence: LogOdds = np.zeros((frame.rows, frame.cols), np.int8)
        self._drawn: Transform = np.zeros((0, 3))
        self._changed: Box | None = None

    def update(self, keyframes: Sequence[Keyframe], poses: Transform) -> Patch:
        """Draw new and moved keyframes.

        Args:
            keyframes: all keyframes of the robot, n of them.
            poses: (n, 3) of the keyframes.

        Returns:
            What changed since the last update.

        Raises:
            ValueError: a pose lies outside the grid.
        """
        known = len(self._drawn)
        off = np.abs(poses[:known] - self._drawn)
        if known and (off[:, :2].max() > _REDRAW_M or off[:, 2].max() > _REDRAW_RAD):
            known = 0
            self._mark_changed(bounding_box(self._evidence))
            self._evidence[:] = 0
            self._drawn = poses[:0]
        self._mark_changed(
            draw_keyframes(self._evidence, self._frame, keyframes[known:], poses[known:])
        )
        self._drawn = np.vstack([self._drawn, poses[known:]])
        return self._changed_patch()

    def full_patch(self) -> Patch:
        """Return everything that is drawn."""
        self._changed = bounding_box(self._evidence)
        return self._changed_patch()

    def _mark_changed(self, box: Box | None) -> None:
        if box is not None:
            self._changed = box if self._changed is None else self._changed.union(box)

    def _changed_patch(self) -> Patch:
        box, self._changed = self._changed, None
        return EMPTY_PATCH if box is None else Patch.cut(self._evidence, box)
