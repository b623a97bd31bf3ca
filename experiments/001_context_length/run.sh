#!/usr/bin/env bash
# bash experiments/001_context_length/run.sh                     about an hour on one core
# bash experiments/001_context_length/run.sh fast <folder>       the same in small: a minute, no packages, results into the folder
set -euo pipefail
cd "$(dirname "$0")/../.."
name=001_context_length
runs=${RUNS:-runs/$name}
output=experiments/$name
if [ "${1:-}" = fast ]; then
  output=$2 runs=$2/runs
  python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name context_length=64,512 seed=0 \
    step_unit=conversation validation.context_length=512 trainer.max_steps=3 "samples.questions=[]" data.max_validation=4
else
  python -m experiments.base "$runs/base"
  python -m experiments.sharegpt "$runs/base" "$runs/data" --train 12 --validation 6 --tokens 2500 4000
  python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name experiment=smollm2_ablation \
    context_length=512,1024,2048,4096 seed=0,1,2 model.path="$runs/base" data=files \
    'data.path='"$runs"'/data/train_${seed}.jsonl' data.validation_path="$runs/data/validation.jsonl"
fi
python -m experiments.$name.report --runs "$runs/sweep" --output "$output"
