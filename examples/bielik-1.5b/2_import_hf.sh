#!/usr/bin/env bash
# Hugging Face weights to a training checkpoint, for any layout. The input must already have the shape of Bielik 1.5B:
# the base model with the new 32,000-entry vocabulary and the copied layers (see README.md).
#   MODEL=models/bielik-1.5b-start examples/bielik-1.5b/2_import_hf.sh
set -euo pipefail

MODEL="${MODEL:-models/bielik-1.5b-start}"
CHECKPOINT="${CHECKPOINT:-checkpoints/bielik-1.5b-start}"

python tools/convert_checkpoint.py import-hf --input "${MODEL}" --output "${CHECKPOINT}"
