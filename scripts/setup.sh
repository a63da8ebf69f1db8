#!/usr/bin/env bash
# Makes .venv from requirements.lock and installs this checkout; does nothing when up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cmp -s .venv/.lock requirements.lock; then
  echo "setting up .venv (once)" >&2
  "$(command -v python3.11 || command -v python3)" -m venv --clear .venv
  .venv/bin/pip install --quiet --require-hashes -r requirements.lock >&2
  cp requirements.lock .venv/.lock
fi
if ! cat pyproject.toml app/pyproject.toml | cmp -s .venv/.projects -; then
  .venv/bin/pip install --quiet --no-deps --no-build-isolation -e . -e app >&2
  cat pyproject.toml app/pyproject.toml > .venv/.projects
fi
