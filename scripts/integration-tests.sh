#!/usr/bin/env bash
# Whole missions in processes of their own; options go to pytest, as with unit-tests.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
venv=${VENV:-.venv}
unset VENV  # scripts that tests run use other environments
exec "$venv/bin/python" -m pytest --override-ini testpaths=tests/integration "$@"
