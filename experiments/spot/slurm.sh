#!/usr/bin/env bash
# A run on a SLURM partition that preempts:
#   sbatch experiments/spot/slurm.sh experiment=vicuna_7b model.path=<folder> data=<file> attention=flash
# The signal comes 120 s before the end; the run saves, exits with 33, and the job is queued again under the same id.
# A preemption by a higher priority is the same: SLURM sends SIGTERM, and --requeue queues the job again.
#SBATCH --job-name=vicuna
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -u
run_dir="${RUNS:-runs}/slurm-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}"
# An array is a sweep: sbatch --array=0-3 experiments/spot/slurm.sh … seed='$TASK'
arguments=()
for argument in "$@"; do arguments+=("${argument//\$TASK/${SLURM_ARRAY_TASK_ID:-0}}"); done

vicuna-train "${arguments[@]}" run.dir="$run_dir" checkpoint.grace_seconds=50 &
pid=$!
trap 'kill -TERM "$pid"' USR1 TERM
while :; do  # a trap ends `wait` before the run has ended
  wait "$pid"
  code=$?
  kill -0 "$pid" 2>/dev/null || break
done
# 35 is a fault of the machine: another start may get a better one, but not for ever.
if [ "$code" -eq 33 ] || { [ "$code" -eq 35 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; }; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
