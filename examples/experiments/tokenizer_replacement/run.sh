#!/usr/bin/env bash
# What an initialisation is worth: a tiny Qwen2 is trained, gets a new tokenizer by eight methods, and each goes on training.
#   examples/experiments/tokenizer_replacement/run.sh [OUT]      default experiments/tokenizer_replacement
#   QUICK=1 examples/experiments/tokenizer_replacement/run.sh    a minute: does everything run? The figures mean nothing
# Started again after an interruption it goes on: what is finished is kept.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../../.." && pwd)
OUT=${1:-$ROOT/experiments/tokenizer_replacement${QUICK:+-quick}}
mkdir -p "$OUT/data" && cd "$OUT"
export HERE TOOLS=$ROOT/tools OMP_NUM_THREADS=1   # two processes on two cores

METHODS="focus random mean fvt linear wechsel ofa ramen"
MEGABYTES=6 OLD_ENTRIES=4000 NEW_ENTRIES=3000 STEPS=500 FURTHER=60 DOCUMENTS=100 OPTIONS=
LAUNCH="torchrun --standalone --nproc-per-node 2"
if [[ -n ${QUICK:-} ]]; then
    METHODS="focus random" LAUNCH=python
    MEGABYTES=0.3 OLD_ENTRIES=600 NEW_ENTRIES=800 STEPS=3 FURTHER=2 DOCUMENTS=2
    OPTIONS="--training.global_batch_size 2 --training.micro_batch_size 1 --training.eval_batches 1 --schedule.warmup_steps 0"
fi
export NEW_ENTRIES FURTHER OPTIONS   # for the shells of each_method

say() { printf '\n== %s\n' "$*"; }
shard() {   # shard NAME TEXT TOKENIZER
    [[ -f data/$1.idx ]] || python "$TOOLS/preprocess_data.py" --input "$2" --tokenizer "$3" --output-prefix "data/$1" --workers 2
}
replace() { # replace METHOD [OPTION]...
    [[ -d $1/model ]] || python "$TOOLS/replace_tokenizer.py" --model old-model --tokenizer new-tokenizer \
        --method "$1" --output "$1/model" --corpus new.jsonl --bucket 100000 --cache cache \
        --source-word-vectors words.npz --target-word-vectors words.npz --dictionary dictionary.tsv "${@:2}"
}
train() {   # train RUN STEPS COMMAND...: a run that was stopped saved what it had and goes on
    local last=$1/checkpoints/step_$(printf %08d "$2")
    [[ -d $last ]] || "${@:3}" --checkpoint.dir "$1" --training.steps "$2" --training.eval_interval "$2" $OPTIONS
    [[ -d $last ]]   # not so after a SIGTERM, which ends a run in order
}
go_on() {   # go_on METHOD
    [[ -d $1/start ]] || python "$TOOLS/convert_checkpoint.py" import-hf --input "$1/model" --output "$1/start"
    train "$1/run" "$FURTHER" python -m megatron_bielik.pretrain --config "$HERE/source.yaml" --config "$HERE/further.yaml" \
        --model.vocab_size "$NEW_ENTRIES" --checkpoint.init_from "$1/start"
}
each_method() { printf '%s\n' $METHODS | xargs -P 2 -I METHOD bash -euo pipefail -c "$1 METHOD"; }   # two at a time
export -f replace train go_on

say "1/7 text: for the old model, for the new tokenizer, held out"
[[ -f old.jsonl ]] || python "$TOOLS/generate_corpus.py" --output old.jsonl --megabytes "$MEGABYTES" --seed 1
[[ -f new.jsonl ]] || python "$TOOLS/generate_corpus.py" --output new.jsonl --megabytes "$MEGABYTES" --seed 2
[[ -f held-out.jsonl ]] || python "$TOOLS/generate_corpus.py" --output held-out.jsonl --megabytes 0.3 --seed 3

say "2/7 tokenizers: a byte-level one that saw two of eight topics, and one of APT4's kind that saw all"
[[ -d old-tokenizer ]] || python "$HERE/materials.py" tokenizer --corpus old.jsonl --topics law technology \
    --vocab-size "$OLD_ENTRIES" --output old-tokenizer
[[ -d new-tokenizer ]] || python "$TOOLS/train_tokenizer.py" --input new.jsonl --vocab-size "$NEW_ENTRIES" --output new-tokenizer
shard old old.jsonl old-tokenizer
shard new new.jsonl new-tokenizer
shard held-out-old held-out.jsonl old-tokenizer
shard held-out-new held-out.jsonl new-tokenizer

say "3/7 old model: $STEPS steps"
train old-run "$STEPS" $LAUNCH -m megatron_bielik.pretrain --config "$HERE/source.yaml" --model.vocab_size "$OLD_ENTRIES"
[[ -d old-model ]] || python "$TOOLS/convert_checkpoint.py" export-hf --input old-run --output old-model

say "4/7 word vectors for wechsel and ofa, a dictionary for ramen"
[[ -f words.npz ]] || python "$HERE/materials.py" words --corpus new.jsonl --vectors words.npz --dictionary dictionary.tsv

say "5/7 new tokenizer: $METHODS, and the first loss of each"
replace focus --evaluate held-out.jsonl --documents "$DOCUMENTS" --compare $METHODS
each_method replace

say "6/7 training goes on: $FURTHER steps of each, two at a time"
each_method go_on

say "7/7 report"
python "$HERE/report.py" --folder . --methods $METHODS
