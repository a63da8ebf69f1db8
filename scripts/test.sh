#!/usr/bin/env bash
# Run all tests. Options go to pytest; --server-binary redis-server runs them on that server.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/unit-tests.sh "$@"
scripts/integration-tests.sh "$@"
