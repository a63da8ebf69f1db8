#!/usr/bin/env bash
# All tests; options go to pytest. --server-binary redis-server tests on that server.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/unit-tests.sh "$@"
scripts/integration-tests.sh "$@"
