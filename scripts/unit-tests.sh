#!/usr/bin/env bash
# Run the unit tests. Options go to pytest; --server-binary redis-server runs them on that server.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
venv=${VENV:-.venv}
unset VENV  # scripts that tests run use other environments
# More processes than cores, because the tests mostly wait. `-n 0` runs them one after the other.
exec "$venv/bin/python" -m pytest --numprocesses 4 --override-ini testpaths=tests/unit "$@"
