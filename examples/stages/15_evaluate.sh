#!/usr/bin/env bash
# Base and final model on the Polish benchmarks, with 0 and 5 solved examples. One GPU. Started again, it goes on.
#   examples/bielik-4.5b/15_evaluate.sh --data datasets      (local data sets; without, those of the Hub)
#   DRY_RUN=1 examples/bielik-4.5b/15_evaluate.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

BASE_MODEL="${BASE_MODEL:-models/${model}-base}"
FINAL_MODEL="${FINAL_MODEL:-models/${model}-instruct}"
SCORES="${SCORES:-scores/${model}}"
SHOTS="${SHOTS:-0 5}"
DEVICE="${DEVICE:-cuda}"

need BASE_MODEL 09_export_hf.sh
need FINAL_MODEL 14_merge.sh
for path in "${BASE_MODEL}" "${FINAL_MODEL}"; do
  for shots in ${SHOTS}; do
    run python tools/evaluate.py --model "${path}" --tasks polish --num-fewshot "${shots}" --device "${DEVICE}" \
      --dtype bfloat16 --output "${SCORES}/$(basename "${path}")-${shots}" "$@"
  done
done
