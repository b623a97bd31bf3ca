#!/usr/bin/env bash
# Measures and renders the table and the figure. `fast [<folder>]`: a small variant that leaves the committed files alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" = fast ]; then
  runs=${2:-runs/005_peers-fast}
  python -m experiments.005_peers.measure "$runs" --fast
  python -m experiments.005_peers.report --runs "$runs" --output "$runs"
else
  runs=${1:-runs/005_peers}
  python -m experiments.005_peers.measure "$runs"
  python -m experiments.005_peers.report --runs "$runs"
fi
