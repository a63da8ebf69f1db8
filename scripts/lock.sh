#!/usr/bin/env bash
# Pins requirements.in into requirements.lock, with hashes. Needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile requirements.in --python-version 3.11 --universal --generate-hashes \
  --no-emit-index-url --no-header --quiet --output-file requirements.lock
