#!/usr/bin/env bash
# The unit tests; options go to pytest. --server-binary redis-server tests on that server.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
venv=${VENV:-.venv}
unset VENV  # scripts that tests run use other environments
# They wait more than they work: more at once than there are cores. `-n 0` for one after the other.
exec "$venv/bin/python" -m pytest --numprocesses 3 --override-ini testpaths=tests/unit "$@"
