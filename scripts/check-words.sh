#!/usr/bin/env bash
# Find phrases that docs/phrases.txt replaces, in the given files or in all prose of the project.
set -euo pipefail
cd "$(dirname "$0")/.."
list=docs/phrases.txt
if [ $# = 0 ]; then
  mapfile -t files < <(git ls-files '*.py' '*.lua' '*.md' '*.html' '*.js' '*.css' '*.sh' '*.toml' '*.yaml' '*.yml' ':!tests/unit/docs/test_checks.py')
else
  files=("$@")
fi
phrases=$(sed 's/->.*//' "$list" | paste -sd '|')
exec "${VENV:-.venv}/bin/codespell" --dictionary "$list" --regex "(?i)\\b(?:$phrases)\\b" "${files[@]}"
