#!/usr/bin/env bash
# Measure requests with sagastream and its alternatives, and write docs/performance/.
# Usage: benchmark.sh [--check] [--passes N] [--seconds S] [--only NAME]
# Each peer gets a separate environment in ~/.cache. NATS needs nats-server on the path.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
export PYTHONPATH=src:.:benchmarks
exec "${VENV:-.venv}/bin/python" benchmarks/performance.py "$@"
