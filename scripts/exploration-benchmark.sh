#!/usr/bin/env bash
# Measure exploration on the maps of a folder, and write docs/exploration/.
# Usage: exploration-benchmark.sh MAPS RESULTS
# It takes hours on two cores. RESULTS keeps the raw figures as JSON lines.
set -euo pipefail
cd "$(dirname "$0")/.."
maps=$1 results=$2
scripts/setup.sh
export PYTHONPATH=.:benchmarks
python="${VENV:-.venv}/bin/python"
mkdir -p "$results"
$python benchmarks/exploration_cost.py --out "$results/cost.json"
known() {
  local out=$1 seeds=$2
  shift 2
  $python benchmarks/exploration_known.py --maps "$maps" --out "$results/known-$out.jsonl" --processes 2 --seeds "$seeds" --floors "$@"
  $python benchmarks/exploration_bounds.py --maps "$maps" --out "$results/bounds-$out.jsonl" --seeds "$seeds" --floors "$@"
}
known large 2 campus plant cavern
known real 5 warehouse willow-full
known small 4 depot turtlebot3_world office hall cave
$python benchmarks/exploration_slam.py --maps "$maps" --out "$results/slam.jsonl" --seeds 0 1 2 --floors depot office hall cave
$python benchmarks/exploration_merging.py test --seed 8431 --pairs 200 --maps "$maps" --out "$results/merging.jsonl"
$python benchmarks/exploration_log.py "$maps/malaga-telecom.log.gz" --out docs/exploration
$python benchmarks/exploration_pictures.py --out docs/exploration
$python benchmarks/exploration.py "$results" --out docs/exploration
