#!/usr/bin/env bash
# Cleans preference pairs, then DPO-Positive on them. One node of 8 H100. Resumes.
#   LAUNCH="sbatch --nodes 1 examples/launch/slurm.sh" examples/bielik-4.5b/12_dpo.sh       (Slurm)
#   examples/bielik-4.5b/12_dpo.sh                                                (torchrun, on this node)
#   DRY_RUN=1 examples/bielik-4.5b/12_dpo.sh        (the data's report, or the options alone where data are missing)
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

MODEL="${MODEL:-models/${model}-sft-merged}"
RAW_PAIRS="${RAW_PAIRS:-data/chat/preferences/*.jsonl.zst}"      # scored pairs
PAIRS="${PAIRS:-data/chat/preferences.jsonl}"                    # clean ones, to write
VALID="${VALID:-data/chat/preferences-held-out.jsonl}"
RUN="${RUN:-runs/${model}-dpo}"
OUTPUT="${OUTPUT:-models/${model}-dpo}"

need MODEL 11_merge_sft.sh
[[ -e "${PAIRS}" ]] || need RAW_PAIRS "scored preference pairs, yours"
need VALID "pairs held out, yours"
once "${PAIRS}" python tools/prepare_preferences.py --input "${RAW_PAIRS}" --output "${PAIRS}"
train posttrain.dpo --config "${folder}/dpo.yaml" --model.path "${MODEL}" --data.train "[${PAIRS}]" \
  --data.valid "[${VALID}]" --checkpoint.dir "${RUN}" "$@"
link_result "${RUN}" "${OUTPUT}"
