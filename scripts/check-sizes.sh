#!/usr/bin/env bash
# A module has one idea: 40 to 400 lines, a Lua file below 350. Packages, entry points and single commands may be shorter.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files 'src/*.py' 'src/*.lua' 'app/*.py' | xargs wc -l | awk '
  $2 == "total" { next }
  $2 ~ /lua$/ { if ($1 >= 350) { print $2 ": " $1 " lines, 350 is the limit"; wrong = 1 } next }
  $1 > 400 { print $2 ": " $1 " lines, 400 are the limit"; wrong = 1 }
  $1 < 40 && $2 !~ /__(init|main)__.py$|command_handlers\/handlers\// { print $2 ": " $1 " lines, join it to what it belongs to"; wrong = 1 }
  END { exit wrong }'
