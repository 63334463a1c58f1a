#!/usr/bin/env bash
# Fine-tunes the base model on conversations, with the adaptive learning rate. One node of 8 H100. Resumes.
#   LAUNCH="sbatch --nodes 1 examples/launch/slurm.sh" examples/bielik-4.5b/10_sft.sh       (Slurm)
#   examples/bielik-4.5b/10_sft.sh                                                (torchrun, on this node)
#   DRY_RUN=1 examples/bielik-4.5b/10_sft.sh        (the data's report, or the options alone where data are missing)
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

MODEL="${MODEL:-models/${model}-base}"
CHAT="${CHAT:-data/chat/sft/*.parquet}"              # {"messages": [...]}
VALID="${VALID:-data/chat/sft-held-out.jsonl}"
RUN="${RUN:-runs/${model}-sft}"
OUTPUT="${OUTPUT:-models/${model}-sft}"

need MODEL 09_export_hf.sh
need CHAT "conversations, yours"
need VALID "conversations held out, yours"
train posttrain.sft --config "${folder}/sft.yaml" --model.path "${MODEL}" --data.train "[${CHAT}]" \
  --data.valid "[${VALID}]" --checkpoint.dir "${RUN}" "$@"
link_result "${RUN}" "${OUTPUT}"
