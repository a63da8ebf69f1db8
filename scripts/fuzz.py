#!/usr/bin/env python3
"""Write mutations of real entries, journals, recordings, blobs and fleet records to a server at work.

    PYTHONPATH=. .venv/bin/python scripts/fuzz.py [--mutations 100000] [--seed 1] [--binary redis-server]
    PYTHONPATH=. .venv/bin/python scripts/fuzz.py --streams 1000 --stuck 50

Starts a server, the workers of missions and the page; runs two missions, and writes mutations of
what they left, while pages, event streams, terminal verbs and missions are at work. Prints what it
found as JSON. Exit code 1 if anything answered 500, printed a traceback, ended, or took more than
twice its memory.

With `--streams`, opens that many event streams of one mission instead, some of them of clients that
read nothing. Exit code 1 if another client did not get every event.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz import streams
from tests.fuzz.campaign import run

_MOST_GROWTH = 2.0


def main() -> int:
    """Run a campaign and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--binary", help="the server program; default: the bundled Valkey")
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--stuck", type=int, default=50)
    asked = parser.parse_args()
    if asked.streams:
        with tempfile.TemporaryDirectory() as folder:
            cost = streams.run(Path(folder), streams=asked.streams, stuck=asked.stuck)
        print(cost.as_json())
        return 0 if cost.complete == asked.streams - asked.stuck else 1
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), mutations=asked.mutations, seed=asked.seed, binary=asked.binary)
    print(found.as_json())
    is_well = found.completed and not found.faults and not found.lost
    return 0 if is_well and max(found.growth.values()) <= _MOST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
