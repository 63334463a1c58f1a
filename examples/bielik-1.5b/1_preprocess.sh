#!/usr/bin/env bash
# Text to token shards: one shard per language. Input: JSON lines with a "text" field, cleaned and filtered.
#   TEXT=/data/text examples/bielik-1.5b/1_preprocess.sh
set -euo pipefail

TEXT="${TEXT:-data/text}"                       # folder with polish*.jsonl* and english*.jsonl*
DATA="${DATA:-data/bielik-1.5b}"               # folder for the shards
TOKENIZER="${TOKENIZER:-models/bielik-1.5b-start}"
WORKERS="${WORKERS:-$(nproc)}"

mkdir -p "${DATA}"
for language in polish english; do
  python tools/preprocess_data.py --input "${TEXT}/${language}"*.jsonl* --tokenizer "${TOKENIZER}" \
    --output-prefix "${DATA}/${language}" --workers "${WORKERS}"
done
