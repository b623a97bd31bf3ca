#!/usr/bin/env bash
# Real runs of one setting over 80 seeds, and all that is simulated from them; `data` is a file of real conversations.
set -euo pipefail
cd "$(dirname "$0")/../.."
data=${1:?a file of conversations}
out=${2:-runs/sweeps/null}
vicuna-train -m experiment=quickstart data=files data.path="$data" data.max_conversations=400 \
  data.validation_fraction=0.2 data.max_validation=60 context_length=512 conversations_per_step=16 \
  trainer.max_steps=12 optimizer.lr=1e-3 'samples.questions=[]' checkpoint.every_steps=null checkpoint.every_minutes=null \
  'model.architecture={hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 512}' \
  'seed=range(0,80)' hydra.sweep.dir="$out"
python -m experiments.intervals.report --runs "$out" --simulate 1000
