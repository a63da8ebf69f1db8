#!/usr/bin/env bash
# Run one mission from start to end. The machine needs Python 3.11 to 3.13 and nothing else.
# Options: --map FLOOR.yaml --robots N --seed S --out DIR -o text|json (see --help).
set -euo pipefail
home=$(cd "$(dirname "$0")/.." && pwd)
exec "$home/scripts/setup.sh" "$home/${VENV:-.venv}/bin/mission" run "$@"
