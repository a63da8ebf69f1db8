#!/usr/bin/env bash
# Pin the dependencies of pyproject.toml and app/pyproject.toml in requirements.lock, with hashes. Needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile pyproject.toml app/pyproject.toml --group dev --python-version 3.11 --universal --generate-hashes \
  --no-emit-package sagastream --no-strip-extras --no-emit-index-url --no-header --quiet --output-file requirements.lock
