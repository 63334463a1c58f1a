#!/usr/bin/env bash
# Trains the quality classifier in four ways on generated documents and judges each on three sets it has not seen.
#   run.sh [FOLDER]     default experiments/quality_classifier; QUICK=1 runs every step at the smallest size
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
out=${1:-experiments/quality_classifier}
train=20000 test=3000 rounds=250
if [[ -n "${QUICK:-}" ]]; then train=300 test=120 rounds=10; fi
mkdir -p "$out"

generate() {  # name documents corruptions seed levels...
    [[ -s "$out/$1.jsonl" ]] || python "$root/tools/generate_labelled.py" --output "$out/$1.jsonl" --documents "$2" \
        --corruptions "$3" --seed "$4" --levels "${@:5}"
}
generate train "$train" seen 1 1 2 3 4
generate new_documents "$test" seen 2 1 2 3 4
generate new_level "$test" seen 3 5
generate new_level_and_corruptions "$test" unseen 4 5

for objective in softprob ordinal; do
    for weights in none balanced; do
        model="$out/$objective-$weights.json"
        [[ -s "$model" ]] || python "$root/tools/train_quality_classifier.py" --train "$out/train.jsonl" --output "$model" \
            --test "$out"/new_level_and_corruptions.jsonl "$out"/new_level.jsonl "$out"/new_documents.jsonl \
            --objective "$objective" --class-weights "$weights" --rounds "$rounds"
    done
done
python "$root/examples/experiments/quality_classifier/compare.py" "$out"
