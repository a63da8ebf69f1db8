#!/usr/bin/env bash
# Kills, stops and cuts off real processes; --long tries every crash point. Ends with a table of
# what was tried, lost, doubled and out of order, and how long recovery took. Options go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
venv=${VENV:-.venv}
unset VENV  # scripts that tests run use other environments
exec "$venv/bin/python" -m pytest --override-ini testpaths=tests/faults --capture=no "$@"
