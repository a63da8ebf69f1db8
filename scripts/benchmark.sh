#!/usr/bin/env bash
# Measures requests beside other ways to make them, and writes docs/performance/: benchmark.sh [--check] [--passes N]
# [--seconds S] [--only NAME]. Each peer gets an environment of its own in ~/.cache; NATS needs nats-server on the path.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
export PYTHONPATH=src:.:benchmarks
exec "${VENV:-.venv}/bin/python" benchmarks/performance.py "$@"
