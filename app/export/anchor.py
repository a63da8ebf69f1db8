"""The place of a map on the Earth: the origin of the map frame in WGS84, and its turn.

Within a few kilometres of the origin, the east and north of the local tangent plane are converted
by the radii of curvature of the ellipsoid there; the error is below a millimetre for a building.
"""

import math
from dataclasses import dataclass
from typing import Self

from app.exploration.driver import Point

_EQUATOR_M = 6_378_137.0
_FLATTENING = 1 / 298.257223563
_MAX_LATITUDE = 89.0  # degrees; east has no direction at a pole
_MAX_LONGITUDE = 180.0
_FORM = "give LAT,LON or LAT,LON,HEADING in degrees, such as 52.5163,13.3777,30"


class BadAnchor(ValueError):
    """The text of an anchor is malformed, or its place is out of range."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the origin of the map frame lies.

    Attributes:
        latitude: WGS84, degrees north.
        longitude: WGS84, degrees east.
        heading: The compass direction of the map's y axis, degrees clockwise from north.
    """

    latitude: float
    longitude: float
    heading: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `LAT,LON` or `LAT,LON,HEADING`.

        Raises:
            BadAnchor: It is malformed or out of range.
        """
        try:
            numbers = [float(part) for part in text.split(",")]
            anchor = cls(*numbers)
        except (TypeError, ValueError) as error:
            raise BadAnchor(f"{text[:60]!r}: {_FORM}") from error
        if not all(map(math.isfinite, numbers)):
            raise BadAnchor(f"{text[:60]!r}: {_FORM}")
        if abs(anchor.latitude) > _MAX_LATITUDE:
            raise BadAnchor(
                f"latitude: must be from -{_MAX_LATITUDE:g} to {_MAX_LATITUDE:g}, "
                f"not {anchor.latitude:g}"
            )
        if abs(anchor.longitude) > _MAX_LONGITUDE:
            raise BadAnchor(f"longitude: must be from -180 to 180, not {anchor.longitude:g}")
        return anchor

    def place_of(self, point: Point) -> tuple[float, float]:
        """Return the latitude and longitude, degrees, of a point in metres, map frame."""
        turn = math.radians(self.heading)
        east = point[0] * math.cos(turn) + point[1] * math.sin(turn)
        north = point[1] * math.cos(turn) - point[0] * math.sin(turn)
        latitude = math.radians(self.latitude)
        squared = _FLATTENING * (2 - _FLATTENING)
        bend = 1 - squared * math.sin(latitude) ** 2
        along_meridian_m = _EQUATOR_M * (1 - squared) / bend**1.5
        along_parallel_m = _EQUATOR_M / math.sqrt(bend) * math.cos(latitude)
        longitude = self.longitude + math.degrees(east / along_parallel_m)
        return (
            self.latitude + math.degrees(north / along_meridian_m),
            (longitude + 180.0) % 360.0 - 180.0,
        )
