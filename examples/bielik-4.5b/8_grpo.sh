#!/usr/bin/env bash
# GRPO on mathematical problems. One node of 8 H100. Started again, it resumes.
#   LAUNCH="sbatch --nodes 1 examples/launch/slurm.sh" examples/bielik-4.5b/8_grpo.sh         (Slurm)
#   examples/bielik-4.5b/8_grpo.sh                                                   (torchrun, on this node)
#   LAUNCH="python -m megatron_bielik.posttrain.grpo" examples/bielik-4.5b/8_grpo.sh --dry_run      (the data's report)
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"
MODEL="${MODEL:-models/bielik-4.5b-dpo}"
RUN="${RUN:-runs/bielik-4.5b-grpo}"
OUTPUT="${OUTPUT:-models/bielik-4.5b-grpo}"
read -r -a launch <<< "${LAUNCH:-examples/launch/torchrun.sh}"

export MODULE=megatron_bielik.posttrain.grpo
"${launch[@]}" --config "${here}/grpo.yaml" --model.path "${MODEL}" --checkpoint.dir "${RUN}" "$@"

# Slurm has only queued it: link the result when it is there.
if [[ -d "${RUN}/final" && ! -e "${OUTPUT}" ]]; then
  mkdir -p "$(dirname "${OUTPUT}")"
  ln -s "$(realpath "${RUN}/final")" "${OUTPUT}"
fi
