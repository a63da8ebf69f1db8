#!/usr/bin/env python3
"""Draw an office floor from a seed as a map_server yaml and pgm: draw-floor.py FILE.yaml [SEED]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.exploration.floorplan import draw_office
from app.exploration.map_files import save_map

if len(sys.argv) not in (2, 3) or not sys.argv[1].endswith(".yaml"):
    sys.exit(__doc__)
floor = draw_office(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
save_map(Path(sys.argv[1]), floor.grid, floor.frame)
print(f"{sys.argv[1]}: {floor.frame.cols} x {floor.frame.rows} cells")
