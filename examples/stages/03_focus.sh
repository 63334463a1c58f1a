#!/usr/bin/env bash
# Puts the Polish tokenizer into the base model: new embedding and output rows by FOCUS. One CPU node.
#   BASE=models/Qwen2.5-3B examples/bielik-4.5b/03_focus.sh
#   DRY_RUN=1 examples/bielik-4.5b/03_focus.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

TOKENIZER="${TOKENIZER:-models/tokenizer}"
POLISH="${POLISH:-data/corpus/polish/documents/*.jsonl.zst}"      # text for fastText
MEGABYTES="${MEGABYTES:-10000}"                                   # of it that are read
OUTPUT="${OUTPUT:-models/${model}-focus}"

need BASE "${BASE_NAME}, from the Hub"
need TOKENIZER 02_tokenizer.sh
need POLISH 01_corpus.sh
once "${OUTPUT}" python tools/replace_tokenizer.py --model "${BASE}" --tokenizer "${TOKENIZER}" --corpus "${POLISH}" \
  --corpus-megabytes "${MEGABYTES}" --method focus --output "${OUTPUT}" "$@"
