"""What a robot can do, by its factsheet and its state, and whether missions can use it."""

import uuid

from app.config import get_settings
from app.exploration.driver import StartError
from app.exploration.planning.settings import DEFAULT_SETTINGS
from app.robots.vda5050.route import Limits
from app.robots.vda5050.vehicle import RobotFailed, Vehicle

_MAX_NODES = 1000
_LOOK_S = 1.0
_LONGEST_ID = 72
_TOLERANCE_M = 1e-6


async def require_able(vehicle: Vehicle) -> None:
    """Look at what the robot is and can do.

    Raises:
        RobotFailed: It cannot take orders, or does not answer.
        StartError: Missions cannot plan for it.
    """
    timeout = get_settings().robot_timeout_s / 2
    await vehicle.wait_for(lambda: not vehicle.failure(), min(timeout, _LOOK_S))
    require_alive(vehicle)
    if vehicle.factsheet is None:
        await vehicle.act("factsheetRequest", str(uuid.uuid4()), timeout=timeout)
        await vehicle.wait_for(lambda: vehicle.factsheet is not None, timeout)
    sheet = vehicle.factsheet
    if sheet is None:
        raise RobotFailed(f"robot {vehicle.name}: it sends no factsheet")
    widest, radius = sheet.physical_parameters.width, DEFAULT_SETTINGS.radius
    if widest > 2 * radius + _TOLERANCE_M:
        raise StartError(
            f"robot {vehicle.name} is {widest:g} m wide, missions plan for {2 * radius:g} m"
        )
    lengths = sheet.protocol_limits.maximum_string_lengths
    if lengths.id_numerical_only:
        raise StartError(f"robot {vehicle.name} takes numbers as ids only, orders have others")
    longest = lengths.maximum_id_length
    if longest and longest < _LONGEST_ID:
        raise StartError(
            f"robot {vehicle.name} takes ids of {longest} characters, orders need {_LONGEST_ID}"
        )


def require_alive(vehicle: Vehicle) -> None:
    """Check that a robot can carry out orders at all.

    Raises:
        RobotFailed: It cannot.
    """
    if failure := vehicle.failure():
        raise RobotFailed(f"robot {vehicle.name}: {failure}")


def limits_of(vehicle: Vehicle) -> Limits:
    """Return what a robot takes, by its factsheet."""
    sheet, speed, nodes = vehicle.factsheet, DEFAULT_SETTINGS.speed, _MAX_NODES
    if sheet is None:
        return Limits(speed, nodes, scans=False)
    arrays = sheet.protocol_limits.maximum_array_lengths
    most = min(arrays.order_nodes or nodes, (arrays.order_edges or nodes) + 1, nodes)
    speed = min(speed, sheet.physical_parameters.maximum_speed or speed)
    return Limits(speed, max(most, 3), scans=sheet.action("scan") is not None)
