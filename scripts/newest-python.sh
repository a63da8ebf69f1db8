#!/usr/bin/env bash
# Print the path of the newest Python, 3.13 or 3.12, on the path or in pyenv; print nothing if there is none.
set -euo pipefail
for version in 3.13 3.12; do
  for found in "python$version" "$(command -v pyenv > /dev/null && pyenv root)"/versions/"$version".*/bin/"python$version"; do
    if "$found" -c '' 2> /dev/null; then
      echo "$found"
      exit
    fi
  done
done
