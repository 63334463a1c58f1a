#!/usr/bin/env bash
# The newest checkpoint of the run to a Hugging Face folder (LlamaForCausalLM with biases).
#   RUN=runs/bielik-1.5b examples/bielik-1.5b/5_export_hf.sh
set -euo pipefail

RUN="${RUN:-runs/bielik-1.5b}"
OUTPUT="${OUTPUT:-models/bielik-1.5b-base}"

python tools/convert_checkpoint.py export-hf --input "${RUN}" --output "${OUTPUT}"
