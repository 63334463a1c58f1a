#!/usr/bin/env bash
# What the adaptive learning rate does: a tiny model is tuned with it, without it, and each at the other's average rate.
#   examples/experiments/sft_alr/run.sh [OUT]      default experiments/sft_alr
#   QUICK=1 examples/experiments/sft_alr/run.sh    a minute: does everything run? The figures mean nothing
# JOBS=1 runs one at a time. Started again after an interruption it goes on: what is finished is kept.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../../.." && pwd)
OUT=${1:-$ROOT/experiments/sft_alr${QUICK:+-quick}}
mkdir -p "$OUT" && cd "$OUT"
export HERE OMP_NUM_THREADS=1 TQDM_DISABLE=1   # two runs at a time on two cores

PLACES="unpacked-1 unpacked-2 packed-1" RATE=3e-3 BASE=6000 TRAIN=1600 VALID=200 OPTIONS= MODEL="--width 96 --layers 2"
if [[ -n ${QUICK:-} ]]; then
    PLACES=unpacked-1 BASE=16 TRAIN=24 VALID=8 MODEL="--width 32 --layers 1 --entries 300"
    OPTIONS="--data.sequence_length 512 --schedule.warmup_steps 1"
fi
export RATE OPTIONS

say() { printf '\n== %s\n' "$*"; }
quiet() {   # quiet LOG COMMAND...: what it prints goes to a file, which is shown if it fails
    "${@:2}" > "$1" 2>&1 || { tail -n 20 "$1"; return 1; }
}
tune() {    # tune PLACE-SEED METHOD [OPTION]...
    local run=$1-$2 packing=true
    [[ $1 == unpacked-* ]] && packing=false
    [[ -d $run/final ]] && return
    quiet "$run.txt" python -m megatron_bielik.posttrain.sft --config "$HERE/tune.yaml" --checkpoint.dir "$run" \
        --training.seed "${1#*-}" --data.packing $packing "${@:3}" $OPTIONS
    [[ -d $run/final ]] && echo "$run done"
}
as_given() { case $2 in
    alr) tune "$1" alr --optimizer.lr $RATE ;;
    plain) tune "$1" plain --adaptive_lr.enabled false --optimizer.lr $RATE ;;
esac; }
matched() { # rates at which the averages agree, from what the first run of this order logged
    local rate; rate=$(python "$HERE/report.py" rate --run "$1-alr" --method "$2" --lr $RATE)
    case $2 in
        plain-low) tune "$1" plain-low --adaptive_lr.enabled false $rate ;;
        alr-high) tune "$1" alr-high $rate ;;
    esac
}
export -f quiet tune as_given matched
each() {    # each FUNCTION METHOD...: in every place, two at a time
    for place in $PLACES; do for method in "${@:2}"; do echo "$1 $place $method"; done; done |
        xargs -P "${JOBS:-2}" -I LINE bash -euo pipefail -c LINE
}

say "1/5 conversations"
[[ -f held-out.jsonl ]] || python "$HERE/data.py" --base $BASE --train $TRAIN --valid $VALID

say "2/5 base model"
[[ -d random ]] || python "$HERE/../tiny_chat.py" base --conversations base.jsonl --output random $MODEL
[[ -d base/final ]] || quiet base.txt python -m megatron_bielik.posttrain.sft --config "$HERE/base.yaml" $OPTIONS

say "3/5 with the adaptive rate and without, from the same scheduled rate"
each as_given alr plain

say "4/5 each once more, at the average rate of the other"
each matched plain-low alr-high

say "5/5 answers to questions never seen, report"
python "$HERE/../tiny_chat.py" answers --conversations held-out.jsonl --runs base $(ls -d ./*packed-*/ | xargs -n 1 basename)
python "$HERE/report.py" figures --folder .
