#!/usr/bin/env bash
# Runs a training job under Slurm, one task per GPU; saves and requeues itself before the time limit.
#   sbatch --nodes 4 --partition gpu examples/launch/slurm.sh --config run.yaml --training.steps 100
#   MODULE=megatron_bielik.posttrain.sft sbatch examples/launch/slurm.sh --config sft.yaml      (another job)
# Submit from the root of the repository, with the Python environment active.
#SBATCH --job-name=bielik
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
# USR1 to this shell 15 minutes before the limit: a step, a checkpoint, and room for a slow file system.
#SBATCH --signal=B:USR1@900
set -euo pipefail

if [[ -z "${SLURM_JOB_ID:-}" || $# -eq 0 ]]; then
  echo "usage: sbatch --nodes N $0 --config FILE [--section.option VALUE]..." >&2
  exit 2
fi

# Slurm runs a copy of this script from its spool folder, so the neighbour is found from the folder of submission.
# shellcheck source=examples/launch/environment.sh
source "${SLURM_SUBMIT_DIR}/examples/launch/environment.sh"

MASTER_ADDR="$(scontrol show hostnames "${SLURM_JOB_NODELIST}" | head -n 1)"
MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"   # two jobs that share a node do not meet
export MASTER_ADDR MASTER_PORT

time_is_up=false
# shellcheck disable=SC2329  # the trap calls it
pass_on() {
  time_is_up=true
  echo "the time limit is near: asking the run to save and leave"
  kill -USR1 "${step}" # srun passes it on to every task
}

# srun itself is the launcher: torchrun would die of the USR1 that is meant for the run. Blocks of ranks share a node, so
# that tensor-parallel neighbours are joined by NVLink.
# The single quotes are meant: the task's own shell puts in its own rank.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 --distribution=block --cpus-per-task="${SLURM_CPUS_PER_TASK:-12}" bash -c '
  export RANK="${SLURM_PROCID}" LOCAL_RANK="${SLURM_LOCALID}" WORLD_SIZE="${SLURM_NTASKS}"
  exec python -m "${MODULE:-megatron_bielik.pretrain}" "$@"
' job "$@" &
step=$!
trap pass_on USR1

# A trapped signal ends `wait` with a status above 128 while the step goes on, so that is not its status yet.
status=0
wait "${step}" || status=$?
if [[ "${time_is_up}" == true && "${status}" -gt 128 ]]; then
  status=0
  wait "${step}" || status=$?
fi

if [[ "${time_is_up}" == true && "${status}" -eq 0 ]]; then
  scontrol requeue "${SLURM_JOB_ID}"
fi
exit "${status}"
