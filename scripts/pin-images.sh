#!/usr/bin/env bash
# Add the digest that the registry has now to each image of deploy/, or renew it. Needs Docker and the network.
set -euo pipefail
cd "$(dirname "$0")/.."
files=(deploy/compose.yaml deploy/Dockerfile)
sed -nE 's/^ *(image:|FROM) ([^ ]+).*/\2/p' "${files[@]}" | sed 's/@.*//' | grep -v '^mission-control:' | sort -u |
  while read -r image; do
    digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
    [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "$image: the registry gave no digest: $digest" >&2; exit 1; }
    sed -i -E "s#(image:|FROM) ${image}(@sha256:[0-9a-f]+)?( |\$)#\1 $image@$digest\3#" "${files[@]}"
    echo "$image@$digest"
  done
