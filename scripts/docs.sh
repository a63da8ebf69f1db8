#!/usr/bin/env bash
# Builds the guide into site/; with `serve` it shows it at http://127.0.0.1:8000 and follows changes.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
if [ "${1:-build}" = serve ]; then exec "${VENV:-.venv}/bin/python" -m mkdocs serve --strict; fi
exec "${VENV:-.venv}/bin/python" -m mkdocs build --strict
