#!/usr/bin/env bash
# bash experiments/004_layout_invariance/run.sh                     about 12 minutes on two cores
# bash experiments/004_layout_invariance/run.sh fast <folder>       the same in small: a minute, no packages, results into the folder
set -euo pipefail
cd "$(dirname "$0")/../.."
name=004_layout_invariance
runs=${RUNS:-runs/$name}
output=experiments/$name
common="run.name=$name experiment=quickstart step_unit=example context_length=512 conversations_per_step=8 optimizer.lr=1e-3
  samples.questions=[] model.architecture={hidden_size:64,intermediate_size:128,num_hidden_layers:2,num_attention_heads:4,num_key_value_heads:2,max_position_embeddings:512}"
real="data=sharegpt data.max_conversations=60 data.max_validation=4 trainer.max_steps=30 seed=0,1,2"
several="strategy=ddp,fsdp,zero2,zero3 tokens_per_device=512,4096"
single="packing=true,false tokens_per_device=512,4096"
if [ "${1:-}" = fast ]; then
  output=$2 runs=$2/runs
  real="data.max_conversations=60 data.max_validation=4 trainer.max_steps=4 seed=0"
  several="strategy=ddp tokens_per_device=512"
  single="packing=true tokens_per_device=512,4096"
fi
python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep/single" $common $real $single
python -m vicuna_lit.train -m hydra.sweep.dir="$runs/sweep/several" $common $real $several trainer.devices=2
python -m experiments.$name.means "$runs/means" $common $real
python -m experiments.$name.report --runs "$runs" --output "$output"
