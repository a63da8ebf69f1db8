"""One robot's part of a map, drawn on a grid and handed out in patches.

New keyframes are added; when the graph moved old ones by more than a cell's worth, all is drawn
anew, and the patch then covers what was and what is.
"""

from collections.abc import Sequence

import numpy as np

from app.exploration.driver import Patch
from app.exploration.grid import Box, GridFrame, LogOdds
from app.exploration.mapping.keyframes import Keyframe, draw
from app.exploration.se2 import Transform

_REDRAWN_M = 0.02
_REDRAWN_RAD = 0.004


class Canvas:
    """An evidence grid that follows keyframes.

    Args:
        frame: of the grid, in the map's frame.
    """

    def __init__(self, frame: GridFrame) -> None:
        self._frame = frame
        self._evidence: LogOdds = np.zeros((frame.rows, frame.cols), np.int8)
        self._drawn: Transform = np.zeros((0, 3))
        self._changed: Box | None = None

    def follow(self, keyframes: Sequence[Keyframe], poses: Transform) -> Patch:
        """Bring the grid up to date.

        Args:
            keyframes: all of the robot's, n of them.
            poses: (n, 3) of theirs.

        Returns:
            What changed since the last time.

        Raises:
            ValueError: a pose lies outside the grid.
        """
        known = len(self._drawn)
        off = np.abs(poses[:known] - self._drawn)
        if known and (off[:, :2].max() > _REDRAWN_M or off[:, 2].max() > _REDRAWN_RAD):
            known = 0
            self._note(_filled(self._evidence))
            self._evidence[:] = 0
            self._drawn = poses[:0]
        self._note(draw(self._evidence, self._frame, keyframes[known:], poses[known:]))
        self._drawn = np.vstack([self._drawn, poses[known:]])
        return self._patch()

    def whole(self) -> Patch:
        """Return all that was ever drawn."""
        self._changed = _filled(self._evidence)
        return self._patch()

    def _note(self, box: Box | None) -> None:
        if box is not None:
            self._changed = box if self._changed is None else self._changed.union(box)

    def _patch(self) -> Patch:
        box, self._changed = self._changed, None
        if box is None:
            return Patch(0, 0, np.zeros((0, 0), np.int8))
        cells = self._evidence[box.row0 : box.row1, box.col0 : box.col1].copy()
        return Patch(box.row0, box.col0, cells)


def _filled(evidence: LogOdds) -> Box | None:
    """Return a box around all evidence."""
    rows, cols = np.flatnonzero(evidence.any(axis=1)), np.flatnonzero(evidence.any(axis=0))
    if not rows.size:
        return None
    return Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
