#!/usr/bin/env bash
# The newest checkpoint of the run to a Hugging Face folder (LlamaForCausalLM with biases). One CPU node.
#   RUN=runs/bielik-4.5b examples/bielik-4.5b/09_export_hf.sh
#   DRY_RUN=1 examples/bielik-4.5b/09_export_hf.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

RUN="${RUN:-runs/${model}}"
OUTPUT="${OUTPUT:-models/${model}-base}"

need RUN 08_stage2.sh
once "${OUTPUT}" python tools/convert_checkpoint.py export-hf --input "${RUN}" --output "${OUTPUT}" "$@"
