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
    train_on=assistant_messages,last_assistant_message,all_tokens,single_turns seed=0 \
    step_unit=conversation trainer.max_steps=3 "samples.questions=[]" data.max_validation=4
else
  python -m experiments.base "$runs/base"
  python -m experiments.sharegpt "$runs/base" "$runs/data" --train 14 --validation 7 --tokens 1000 2000 --exchanges 4
  python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep" run.name=$name experiment=smollm2_ablation \
    train_on=assistant_messages,last_assistant_message,all_tokens,single_turns seed=0,1,2 model.path="$runs/base" data=files \
    'data.path='"$runs"'/data/train_${seed}.jsonl' data.validation_path="$runs/data/validation.jsonl"
fi
python -m experiments.$name.report --runs "$runs/sweep" --output "$output"
