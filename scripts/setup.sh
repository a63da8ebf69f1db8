#!/usr/bin/env bash
# Create .venv from requirements.lock and install this checkout; do nothing if it is up to date.
# Then run the command that is given, if any, in the current folder.
# Use the first Python from 3.11 to 3.13 that is found. PYTHON selects another one, VENV another folder.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null; }
# A step has its own process group: Ctrl-C reaches only this script, which ends the step without a traceback.
step() {
  set -m
  "$@" >&2 &
  set +m
  trap 'kill -- -$!; exit 130' INT
  trap 'kill -- -$!; exit 143' TERM
  wait $!
  trap - INT TERM
}
if ! cmp -s "$venv/.lock" requirements.lock; then
  python=${PYTHON:-}
  for found in python3 python3.11 python3.12 python3.13; do
    if [ -z "$python" ] && suits "$found"; then python=$found; fi
  done
  if [ -z "$python" ]; then
    echo "no Python from 3.11 to 3.13 found; set PYTHON to the path of one" >&2
    exit 1
  fi
  echo "setting up $venv with $("$python" --version) (once)" >&2
  step "$python" -m venv --clear "$venv"
  # The lock is complete, so pip has nothing to resolve; compiling afterwards uses every processor.
  step "$venv/bin/pip" install --quiet --require-hashes --no-deps --no-compile -r requirements.lock
  step "$venv/bin/python" -m compileall -qq -j 0 "$venv/lib" || true  # some packages hold files of other Pythons
  cp requirements.lock "$venv/.lock"
fi
if ! cat pyproject.toml app/pyproject.toml | cmp -s "$venv/.projects" -; then
  step "$venv/bin/pip" install --quiet --no-deps --no-build-isolation -e . -e app
  cat pyproject.toml app/pyproject.toml > "$venv/.projects"
fi
cd "$here"
exec "$@"
