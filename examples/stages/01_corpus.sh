#!/usr/bin/env bash
# Raw Polish text to a clean corpus: repaired, anonymised, without duplicates, scored by a quality classifier that is trained
# first. CPU nodes. Started again, it goes on. Both models take the same corpus: made for one, it is there for the other.
#   examples/bielik-4.5b/01_corpus.sh --executor.kind slurm --executor.partition cpu      (Slurm; WORKERS=-1: no limit)
#   RAW=/data/web LABELLED=labels.jsonl examples/bielik-4.5b/01_corpus.sh                 (this machine)
#   DRY_RUN=1 examples/bielik-4.5b/01_corpus.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

RAW="${RAW:-data/raw/polish}"                        # folder of .jsonl.zst with "text"
LABELLED="${LABELLED:-data/quality/train.jsonl}"     # {"text", "label"}, HIGH, MEDIUM or LOW: 44,344 in the report
LABELLED_TEST="${LABELLED_TEST:-data/quality/test.jsonl}"
QUALITY="${QUALITY:-data/quality/quality.json}"      # the classifier
CORPUS="${CORPUS:-data/corpus/polish}"               # folder to write
WORKERS="${WORKERS:-$(nproc)}"

need RAW "raw text, yours"
if [[ ! -e "${QUALITY}" ]]; then
  need LABELLED "people's labels, yours; tools/generate_labelled.py makes some to try things on"
  need LABELLED_TEST "the same"
fi
once "${QUALITY}" python tools/train_quality_classifier.py --train "${LABELLED}" --test "${LABELLED_TEST}" \
  --output "${QUALITY}" --threads "${WORKERS}"
run python tools/prepare_corpus.py --config examples/stages/corpus.yaml --input "[{path: ${RAW}}]" \
  --quality.model "${QUALITY}" --output.folder "${CORPUS}" --executor.workers "${WORKERS}" "$@"
