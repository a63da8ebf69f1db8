#!/usr/bin/env bash
# The unit tests; options go to pytest. --server-binary redis-server tests on that server.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec .venv/bin/python -m pytest --override-ini testpaths=tests/unit "$@"
