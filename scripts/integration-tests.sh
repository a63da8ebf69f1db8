#!/usr/bin/env bash
# Whole missions in processes of their own; options go to pytest, as with unit-tests.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec "${VENV:-.venv}/bin/python" -m pytest --override-ini testpaths=tests/integration "$@"
