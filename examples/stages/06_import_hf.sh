#!/usr/bin/env bash
# Hugging Face weights to a training checkpoint, for any layout. One CPU node. The published base model can be given instead, to
# continue its training.
#   MODEL=models/bielik-4.5b-start examples/bielik-4.5b/06_import_hf.sh
#   DRY_RUN=1 examples/bielik-4.5b/06_import_hf.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

MODEL="${MODEL:-models/${model}-start}"
CHECKPOINT="${CHECKPOINT:-checkpoints/${model}-start}"

need MODEL 04_depth.sh
once "${CHECKPOINT}" python tools/convert_checkpoint.py import-hf --input "${MODEL}" --output "${CHECKPOINT}" "$@"
