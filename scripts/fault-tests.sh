#!/usr/bin/env bash
# Kills, stops and cuts off real processes; --long tries every crash point. Prints what was tried.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec .venv/bin/python -m pytest --override-ini testpaths=tests/faults --capture=no "$@"
