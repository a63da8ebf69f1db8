#!/usr/bin/env bash
# Run the integration tests: whole missions in separate processes. Options go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
venv=${VENV:-.venv}
unset VENV  # scripts that tests run use other environments
exec "$venv/bin/python" -m pytest --override-ini testpaths=tests/integration "$@"
