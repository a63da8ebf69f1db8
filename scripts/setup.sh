#!/usr/bin/env bash
# Makes .venv from requirements.lock; does nothing when it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.venv/.installed
if [ -f "$stamp" ] && cmp -s "$stamp" <(cat requirements.lock pyproject.toml app/pyproject.toml); then exit 0; fi
{
  "$(command -v python3.11 || command -v python3)" -m venv --clear .venv
  .venv/bin/pip install --quiet --require-hashes -r requirements.lock
  .venv/bin/pip install --quiet --no-deps --no-build-isolation -e . -e app
} >&2
cat requirements.lock pyproject.toml app/pyproject.toml > "$stamp"
