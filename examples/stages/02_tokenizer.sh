#!/usr/bin/env bash
# Trains the tokenizer of 32,000 entries on a sample of the corpus, and compares it with the base model's. One CPU node.
#   examples/bielik-4.5b/02_tokenizer.sh
#   DRY_RUN=1 examples/bielik-4.5b/02_tokenizer.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

POLISH="${POLISH:-data/corpus/polish/documents/*.jsonl.zst}"
ENGLISH="${ENGLISH:-data/raw/english/*.jsonl.zst}"
TOKENIZER="${TOKENIZER:-models/tokenizer}"           # folder to write
MEGABYTES="${MEGABYTES:-4000}"                       # of the sample

need POLISH 01_corpus.sh
need ENGLISH "English text such as SlimPajama, yours"
need BASE "${BASE_NAME}, from the Hub"
once "${TOKENIZER}" python tools/train_tokenizer.py --input "${POLISH}=0.9" "${ENGLISH}=0.1" --vocab-size 32000 \
  --max-megabytes "${MEGABYTES}" --output "${TOKENIZER}" "$@"
run python tools/compare_tokenizers.py --tokenizer "polish=${TOKENIZER}" "base=${BASE}" \
  --text "pl=$(first "${POLISH}")" "en=$(first "${ENGLISH}")" --json "${TOKENIZER}.fertility.json"
