#!/usr/bin/env bash
# GRPO on mathematical problems. One node of 8 H100. Resumes.
#   LAUNCH="sbatch --nodes 1 examples/launch/slurm.sh" examples/bielik-4.5b/13_grpo.sh       (Slurm)
#   examples/bielik-4.5b/13_grpo.sh                                                (torchrun, on this node)
#   DRY_RUN=1 examples/bielik-4.5b/13_grpo.sh        (the data's report, or the options alone where data are missing)
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

MODEL="${MODEL:-models/${model}-dpo}"
PROBLEMS="${PROBLEMS:-data/chat/problems.jsonl}"     # {"messages": [...], "answer": ...}
VALID="${VALID:-data/chat/problems-held-out.jsonl}"
RUN="${RUN:-runs/${model}-grpo}"
OUTPUT="${OUTPUT:-models/${model}-grpo}"

need MODEL 12_dpo.sh
need PROBLEMS "problems, yours; tools/generate_problems.py makes some"
need VALID "the same, held out"
train posttrain.grpo --config "${folder}/grpo.yaml" --model.path "${MODEL}" --data.train "[${PROBLEMS}]" \
  --data.valid "[${VALID}]" --checkpoint.dir "${RUN}" "$@"
link_result "${RUN}" "${OUTPUT}"
