#!/usr/bin/env bash
# bash experiments/008_mixture/run.sh                     40 minutes on a machine shared by many jobs
# bash experiments/008_mixture/run.sh fast <folder>       the same in small: a minute, no packages, results into the folder
set -euo pipefail
cd "$(dirname "$0")/../.."
name=008_mixture
runs=${RUNS:-runs/$name}
output=experiments/$name
if [ "${1:-}" = fast ]; then
  output=$2 runs=$2/runs
  mkdir -p "$runs/data"
  cp vicuna_lit/quickstart/conversations.jsonl "$runs/data/code_0.jsonl"
  cp vicuna_lit/quickstart/validation.jsonl "$runs/data/general_0.jsonl"
  settings=('wandb.tags=["8","0"],["4","4"],["0","8"]' seed=0 data.max_validation=4)
else
  python -m experiments.base "$runs/base"
  python -m experiments.$name.data "$runs/base" "$runs/data" --train 8 --validation 6
  settings=('wandb.tags=["8","0"],["4","4"],["0","8"]' seed=0,1,2 experiment=smollm2_ablation model.path="$runs/base"
    conversations_per_step=2 context_length=1024)
fi
# The tags are the conversations that a pass draws of either source.
python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name "${settings[@]}" data=mixture \
  'data.sources=[{path: '"$runs"'/data/code_${seed}.jsonl, name: code, conversations: ${wandb.tags.0}}, {path: '"$runs"'/data/general_${seed}.jsonl, name: general, conversations: ${wandb.tags.1}}]' \
  data.validation_fraction=0.25 samples.questions=[]
python -m experiments.$name.report --runs "$runs/sweep" --output "$output"
