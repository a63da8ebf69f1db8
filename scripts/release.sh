#!/usr/bin/env bash
# Build what a release consists of, into dist/ or the given folder: the wheel, the source archive, the bill
# of materials of the lock file (CycloneDX), and the hashes of all three. Known vulnerabilities end it.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
out=${1:-dist}
mkdir -p "$out"
if [ -n "$(ls -A "$out")" ]; then
  echo "$out is not empty: give another folder, or empty it" >&2
  exit 1
fi
python=${VENV:-.venv}/bin/python
"$python" scripts/audit.py
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || date +%s)}
export SOURCE_DATE_EPOCH
"$python" -m hatchling build --directory "$(cd "$out" && pwd)"
version=$("$python" -c 'from importlib.metadata import version; print(version("sagastream"))')
"$python" scripts/sbom.py > "$out/sagastream-$version.cdx.json"
(cd "$out" && sha256sum -- *.whl *.tar.gz *.cdx.json > SHA256SUMS)
ls "$out"
