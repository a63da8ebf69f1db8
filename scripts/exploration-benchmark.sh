#!/usr/bin/env bash
# Measure exploration on the maps of a folder, and write docs/exploration/.
# Usage: exploration-benchmark.sh MAPS RESULTS [LOGS [FLOORS]]
# MAPS holds map_server files, LOGS logs in CARMEN format, FLOORS the floors of IR2.
# It takes hours on two cores. RESULTS keeps the raw figures as JSON lines.
set -euo pipefail
cd "$(dirname "$0")/.."
maps=$1 results=$2 logs=${3:-} floors=${4:-}
scripts/setup.sh
export PYTHONPATH=.:benchmarks
python="${VENV:-.venv}/bin/python"
mkdir -p "$results"
$python benchmarks/exploration_cost.py --out "$results/cost.json"
missions() {
  local kind=$1 out=$2
  shift 2
  $python "benchmarks/exploration_$kind.py" --maps "$maps" --out "$results/$out.jsonl" --processes 2 "$@"
}
for kind in known bounds; do
  missions $kind $kind-large --seeds 2 --floors campus plant cavern
  missions $kind $kind-real --seeds 5 --floors warehouse willow-full
  missions $kind $kind-small --seeds 3 --floors depot turtlebot3_world office hall cave
done
missions tail tail --robots 4 --floors campus plant cavern warehouse willow-full
missions slam slam --seeds 3 --floors depot office hall cave
$python benchmarks/exploration_merging.py test --seed 8431 --pairs 200 --maps "$maps" --out "$results/merging.jsonl"
$python benchmarks/exploration_log.py "$maps/malaga-telecom.log.gz" --out docs/exploration
if [ -n "$logs" ]; then
  $python benchmarks/exploration_logs.py "$logs"/*.gz | tee "$results/logs.md"
  $python benchmarks/exploration_references.py "$logs"/*.gz | tee "$results/references.txt"
fi
if [ -n "$floors" ]; then
  $python benchmarks/exploration_ir2.py "$floors" --out "$results/ir2.jsonl" --report docs/exploration/radio.md --processes 2
fi
$python benchmarks/exploration_pictures.py --out docs/exploration
$python benchmarks/exploration.py "$results" --out docs/exploration
