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
  python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name context_length=64,512 seed=0,1 \
    step_unit=conversation heldout.context_length=512 trainer.max_steps=3 "evaluate.questions=[]" data.max_heldout=4
else
  python -m experiments.base "$runs/base"
  python -m experiments.sharegpt "$runs/base" "$runs/data" --train 12 --heldout 6 --tokens 2500 4000
  python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name experiment=smollm2_ablation \
    context_length=512,1024,2048,4096 seed=0,1,2 model.path="$runs/base" data=files \
    'data.path='"$runs"'/data/train_${seed}.jsonl' data.heldout_path="$runs/data/heldout.jsonl"
fi
python -m experiments.$name.report --runs "$runs/sweep" --output "$output"
