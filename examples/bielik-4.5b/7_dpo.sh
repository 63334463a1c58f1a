#!/usr/bin/env bash
# DPO-Positive on preference pairs. One node of 8 H100. Started again, it resumes.
#   LAUNCH="sbatch --nodes 1 examples/launch/slurm.sh" examples/bielik-4.5b/7_dpo.sh         (Slurm)
#   examples/bielik-4.5b/7_dpo.sh                                                   (torchrun, on this node)
#   LAUNCH="python -m megatron_bielik.posttrain.dpo" examples/bielik-4.5b/7_dpo.sh --dry_run      (the data's report)
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"
MODEL="${MODEL:-models/bielik-4.5b-sft}"
RUN="${RUN:-runs/bielik-4.5b-dpo}"
OUTPUT="${OUTPUT:-models/bielik-4.5b-dpo}"
read -r -a launch <<< "${LAUNCH:-examples/launch/torchrun.sh}"

export MODULE=megatron_bielik.posttrain.dpo
"${launch[@]}" --config "${here}/dpo.yaml" --model.path "${MODEL}" --checkpoint.dir "${RUN}" "$@"

# Slurm has only queued it: link the result when it is there.
if [[ -d "${RUN}/final" && ! -e "${OUTPUT}" ]]; then
  mkdir -p "$(dirname "${OUTPUT}")"
  ln -s "$(realpath "${RUN}/final")" "${OUTPUT}"
fi
