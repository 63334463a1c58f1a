#!/usr/bin/env bash
# Makes the model deeper by repeating its layers, and gives it the form of Bielik (Llama with biases). One CPU node.
#   examples/bielik-4.5b/04_depth.sh
#   DRY_RUN=1 examples/bielik-4.5b/04_depth.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

MODEL="${MODEL:-models/${model}-focus}"
OUTPUT="${OUTPUT:-models/${model}-start}"

need MODEL 03_focus.sh
once "${OUTPUT}" python tools/upscale_depth.py --model "${MODEL}" --drop "${DROP}" --repeat-edges 2 --form bielik \
  --output "${OUTPUT}" "$@"
