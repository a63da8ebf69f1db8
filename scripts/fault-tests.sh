#!/usr/bin/env bash
# Kill, stop and disconnect real processes; --long tries every crash point. Options go to pytest.
# At the end print a table: requests tried, lost, doubled and out of order, and recovery times.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
venv=${VENV:-.venv}
unset VENV  # scripts that tests run use other environments
exec "$venv/bin/python" -m pytest --override-ini testpaths=tests/faults --capture=no "$@"
