"""Which robots of a mission hear one another: a simulated radio on the true floor.

Orders and reports pass through the server all the same; the planner of a mission with a radio acts
as if each group of robots planned for itself.
"""

from collections.abc import Sequence

from app.config import get_settings
from app.exploration.driver import Pose
from app.exploration.map_files import find_map, load_map
from app.exploration.planning.radio_planner import Groups
from app.exploration.simulation.radio import components, parse_radio


def radio_groups(radio: str, area: str) -> Groups:
    """Return what tells the groups of robots that hear one another.

    Args:
        radio: The radio model: see `check_radio`.
        area: The name of the map; waves pass its walls.

    Raises:
        BadRadio: There is no such model.
        MapError: The map is missing or invalid.
    """
    model = parse_radio(radio, load_map(find_map(get_settings().map_dir, area)))

    def groups(poses: Sequence[Pose]) -> list[list[int]]:
        return components(poses, model)

    return groups
