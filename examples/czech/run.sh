#!/usr/bin/env bash
# The first half of the recipe in Czech: text, quality classifier, clean corpus, tokenizer, shard. A minute on two cores.
#   examples/czech/run.sh                into runs/czech/
#   examples/czech/run.sh FOLDER         elsewhere
#   QUICK=1 examples/czech/run.sh FOLDER       seconds: does everything run?
# Started again it goes on: what is there is not made again.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOOLS=$HERE/../../tools
OUT=${1:-$HERE/../../runs/czech}
MEGABYTES=${QUICK:+0.6}
TRAIN=${QUICK:+400}
ENTRIES=${QUICK:+800}
ROUNDS=${QUICK:+20}
mkdir -p "$OUT" && cd "$OUT"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false

# once OUTPUT COMMAND...: every tool's output appears when it is complete.
once() { [[ -e $1 ]] || "${@:2}"; }

once raw/clean.jsonl python "$TOOLS/generate_corpus.py" --language cs --output raw/clean.jsonl --megabytes "${MEGABYTES:-5}" --seed 1
once held-out.jsonl python "$TOOLS/generate_corpus.py" --language cs --output held-out.jsonl --megabytes 0.2 --seed 2
# Documents of all three labels among the raw text, for the classifier to sort out.
once raw/mixed.jsonl python "$TOOLS/generate_labelled.py" --language cs --output raw/mixed.jsonl --documents "${TRAIN:-1500}" --seed 3
once train.jsonl python "$TOOLS/generate_labelled.py" --language cs --output train.jsonl --documents "${TRAIN:-3000}" \
  --levels 1 2 3 4 --corruptions seen --seed 4
once test.jsonl python "$TOOLS/generate_labelled.py" --language cs --output test.jsonl --documents 400 --levels 5 --seed 5
once quality.json python "$TOOLS/train_quality_classifier.py" --language cs --train train.jsonl --test test.jsonl \
  --output quality.json --class-weights balanced --rounds "${ROUNDS:-100}"
python "$TOOLS/prepare_corpus.py" --config "$HERE/corpus.yaml"
once tokenizer python "$TOOLS/train_tokenizer.py" --input corpus/documents/00000.jsonl --vocab-size "${ENTRIES:-2000}" --output tokenizer
# The same number of entries from Polish text: what a tokenizer of another language costs.
once polish.jsonl python "$TOOLS/generate_corpus.py" --language pl --output polish.jsonl --megabytes 2 --seed 6
once polish-tokenizer python "$TOOLS/train_tokenizer.py" --input polish.jsonl --vocab-size "${ENTRIES:-2000}" --output polish-tokenizer
python "$TOOLS/compare_tokenizers.py" --tokenizer czech=tokenizer polish=polish-tokenizer --text cs=held-out.jsonl --rounds 1 \
  --json fertility.json
python "$TOOLS/preprocess_data.py" --input corpus/documents/00000.jsonl --tokenizer tokenizer --output-prefix shard/cs --workers 2
python "$TOOLS/validate_shards.py" shard/cs
