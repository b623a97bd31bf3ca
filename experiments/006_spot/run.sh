#!/usr/bin/env bash
# Measures and renders the table and the figure. `fast [<folder>]`: a small variant that leaves the committed files alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" = fast ]; then
  runs=${2:-runs/006_spot-fast}
  python -m experiments.006_spot.measure "$runs" --fast
  python -m experiments.006_spot.report --runs "$runs" --output "$runs"
else
  runs=${1:-runs/006_spot}
  python -m experiments.006_spot.measure "$runs"
  python -m experiments.006_spot.report --runs "$runs"
fi
