#!/usr/bin/env bash
# Prints the newest Python of 3.12 and 3.13 on this machine, on the path or of pyenv; nothing if there is none.
set -euo pipefail
for version in 3.13 3.12; do
  for found in "python$version" "$(command -v pyenv > /dev/null && pyenv root)"/versions/"$version".*/bin/"python$version"; do
    if "$found" -c '' 2> /dev/null; then
      echo "$found"
      exit
    fi
  done
done
