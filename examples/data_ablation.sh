#!/usr/bin/env bash
# Does cleaning help? One recipe on two data sets, three seeds each, as many steps, judged by the same conversations.
#   vicuna-prepare raw=<dump> run.dir=cleaned
#   bash examples/data_ablation.sh <dump> cleaned/train.jsonl cleaned/validation.jsonl [key=value …]
# Settings: EXPERIMENT (smollm2_ablation: minutes a run on a CPU), STEPS, SEEDS. Stopped? The same command goes on.
set -euo pipefail
raw=$1 cleaned=$2 validation=$3
shift 3
folder=runs/sweeps/data_ablation
vicuna-train -m experiment="${EXPERIMENT:-smollm2_ablation}" run.name=data_ablation hydra.sweep.dir=$folder \
  data=files "data.path='$raw','$cleaned'" "data.validation_path='$validation'" \
  trainer.max_steps="${STEPS:-100}" seed="${SEEDS:-0,1,2}" "$@"
vicuna-compare $folder
