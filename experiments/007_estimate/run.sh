#!/usr/bin/env bash
# bash experiments/007_estimate/run.sh                     what measured.csv lacks is measured: an hour and more for all of it
# bash experiments/007_estimate/run.sh fast <folder>       one run, no packages: half a minute, results into the folder
set -euo pipefail
cd "$(dirname "$0")/../.."
name=007_estimate
output=experiments/$name
only=""
if [ "${1:-}" = fast ]; then
  export FAST=1
  output=$2
  only="context 512"
else
  python -m experiments.$name.published
  python -m experiments.$name.bills
fi
python -m experiments.$name.measure --only "$only" --output "$output"
python -m experiments.$name.report --runs "$output" --output "$output"
