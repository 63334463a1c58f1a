#!/usr/bin/env bash
# Fine-tunes the base model on conversations, with the adaptive learning rate. One node of 8 H100. Started again, it resumes.
#   LAUNCH="sbatch --nodes 1 examples/launch/slurm.sh" examples/bielik-4.5b/6_sft.sh         (Slurm)
#   examples/bielik-4.5b/6_sft.sh                                                   (torchrun, on this node)
#   LAUNCH="python -m megatron_bielik.posttrain.sft" examples/bielik-4.5b/6_sft.sh --dry_run      (the data's report)
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"
MODEL="${MODEL:-models/bielik-4.5b-base}"
RUN="${RUN:-runs/bielik-4.5b-sft}"
OUTPUT="${OUTPUT:-models/bielik-4.5b-sft}"
read -r -a launch <<< "${LAUNCH:-examples/launch/torchrun.sh}"

export MODULE=megatron_bielik.posttrain.sft
"${launch[@]}" --config "${here}/sft.yaml" --model.path "${MODEL}" --checkpoint.dir "${RUN}" "$@"

# Slurm has only queued it: link the result when it is there.
if [[ -d "${RUN}/final" && ! -e "${OUTPUT}" ]]; then
  mkdir -p "$(dirname "${OUTPUT}")"
  ln -s "$(realpath "${RUN}/final")" "${OUTPUT}"
fi
