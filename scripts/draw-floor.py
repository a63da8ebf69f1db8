#!/usr/bin/env python3
"""Draw an office floor from a seed as a map_server yaml and pgm: draw-floor.py FILE.yaml [SEED]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_office

match sys.argv[1:]:
    case [file]:
        seed = 0
    case [file, number] if number.isdecimal():
        seed = int(number)
    case _:
        sys.exit(__doc__)
floor = draw_office(seed)
save_map(Path(file), floor.grid, floor.frame)
print(f"{file}: {floor.frame.cols} x {floor.frame.rows} cells")
