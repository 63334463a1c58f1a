#!/usr/bin/env bash
# Text to token shards: Polish, English and instruction text, each its own data set. CPUs. Started again, it goes on.
#   WORKERS=64 examples/bielik-4.5b/05_preprocess.sh
#   DRY_RUN=1 examples/bielik-4.5b/05_preprocess.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

POLISH="${POLISH:-data/corpus/polish/documents/*.jsonl.zst}"
ENGLISH="${ENGLISH:-data/raw/english/*.jsonl.zst}"
CHAT="${CHAT:-data/chat/sft/*.parquet}"              # the conversations of 10_sft.sh
TOKENIZER="${TOKENIZER:-models/tokenizer}"
DATA="${DATA:-data/shards}"                          # folder for the shards; both models take the same
WORKERS="${WORKERS:-$(nproc)}"

need POLISH 01_corpus.sh
need ENGLISH "English text such as SlimPajama, yours"
need CHAT "conversations, yours"
need TOKENIZER 02_tokenizer.sh
INSTRUCTION="${DATA}/instruction.jsonl.zst"
once "${INSTRUCTION}" python examples/stages/instruction_text.py --input "${CHAT}" --output "${INSTRUCTION}"
for set in "polish ${POLISH}" "english ${ENGLISH}" "instruction ${INSTRUCTION}"; do
  run python tools/preprocess_data.py --input "${set#* }" --tokenizer "${TOKENIZER}" \
    --output-prefix "${DATA}/${set%% *}" --workers "${WORKERS}" "$@"
done
