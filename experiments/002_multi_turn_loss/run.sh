#!/usr/bin/env bash
# bash experiments/002_multi_turn_loss/run.sh                     about 40 minutes on one core
# bash experiments/002_multi_turn_loss/run.sh fast <folder>       the same in small: a minute, no packages, results into the folder
set -euo pipefail
cd "$(dirname "$0")/../.."
name=002_multi_turn_loss
runs=${RUNS:-runs/$name}
output=experiments/$name
if [ "${1:-}" = fast ]; then
  output=$2 runs=$2/runs
  python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name \
    supervised=replies,last_reply,all_tokens,single_turns seed=0 \
    step_unit=conversation trainer.max_steps=3 "evaluate.questions=[]" data.max_heldout=4
else
  python -m experiments.base "$runs/base"
  python -m experiments.sharegpt "$runs/base" "$runs/data" --train 14 --heldout 7 --tokens 1000 2000 --exchanges 4
  python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name experiment=smollm2_ablation \
    supervised=replies,last_reply,all_tokens,single_turns seed=0,1,2 model.path="$runs/base" data=files \
    'data.path='"$runs"'/data/train_${seed}.jsonl' data.heldout_path="$runs/data/heldout.jsonl"
fi
python -m experiments.$name.report --runs "$runs/sweep" --output "$output"
