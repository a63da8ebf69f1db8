#!/usr/bin/env bash
# Build the guide into site/. `docs.sh serve` shows it at http://127.0.0.1:8000 and rebuilds it after changes.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
if [ "${1:-build}" = serve ]; then exec "${VENV:-.venv}/bin/python" -m mkdocs serve --strict; fi
exec "${VENV:-.venv}/bin/python" -m mkdocs build --strict
