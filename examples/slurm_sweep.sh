#!/usr/bin/env bash
# A sweep on SLURM, a job for each combination, one GPU of 24 GB each: pip install 'vicuna_lit[sweep,lora]'
#   bash examples/slurm_sweep.sh data=<file or folder on a shared disk> [key=value …]
# Settings: PARTITION, MINUTES. This command waits for the jobs; given again it skips those that are done.
# On a partition that preempts see experiments/spot/slurm.sh, which queues itself again.
set -euo pipefail
folder=runs/sweeps/slurm_sweep
vicuna-train -m experiment=lora_24gb model.path=Qwen/Qwen3-4B run.name=slurm_sweep hydra.sweep.dir=$folder \
  optimizer.lr=1e-4,2e-4,4e-4 finetune.rank=8,32 on_failure=retry \
  hydra/launcher=submitit_slurm hydra.launcher.partition="${PARTITION:-gpu}" hydra.launcher.gpus_per_node=1 \
  hydra.launcher.cpus_per_task=8 hydra.launcher.mem_gb=48 hydra.launcher.timeout_min="${MINUTES:-720}" "$@"
vicuna-compare $folder
