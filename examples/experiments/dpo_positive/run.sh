#!/usr/bin/env bash
# What the penalty of DPO-Positive does: DPO with it and without it, on pairs that differ little and on pairs that differ much.
#   examples/experiments/dpo_positive/run.sh [OUT]      default experiments/dpo_positive
#   QUICK=1 examples/experiments/dpo_positive/run.sh    a minute: does everything run? The figures mean nothing
# JOBS=1 runs one at a time. Started again after an interruption it goes on: what is finished is kept.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../../.." && pwd)
OUT=${1:-$ROOT/experiments/dpo_positive${QUICK:+-quick}}
mkdir -p "$OUT" && cd "$OUT"
export HERE OMP_NUM_THREADS=1 TQDM_DISABLE=1   # two runs at a time on two cores

KINDS="one-change other-answer other-words" SFT=6000 PAIRS=2000 HELD_OUT=300 OPTIONS= MODEL="--width 96 --layers 2"
# Pairs, method, seed; the options of each method stand in dpo().
RUNS="one-change plain 1
one-change positive 1
other-answer plain 1
other-answer positive 1
other-words plain 1
other-words positive 1
one-change plain-normalized 1
one-change positive-normalized 1
one-change plain 2
one-change positive 2"
if [[ -n ${QUICK:-} ]]; then
    KINDS=one-change SFT=32 PAIRS=20 HELD_OUT=2 MODEL="--width 32 --layers 1 --entries 300"
    RUNS=$(head -n 2 <<< "$RUNS") OPTIONS="--data.sequence_length 256 --training.steps 2 --training.eval_interval 1"
fi
export OPTIONS

say() { printf '\n== %s\n' "$*"; }
quiet() {   # quiet LOG COMMAND...: what it prints goes to a file, which is shown if it fails
    "${@:2}" > "$1" 2>&1 || { tail -n 20 "$1"; return 1; }
}
dpo() {     # dpo PAIRS METHOD SEED
    local run=$1-$3-$2 method
    [[ -d $run/final ]] && return
    case $2 in
        plain) method="--loss.positive 0" ;;
        positive) method="" ;;
        plain-normalized) method="--loss.positive 0 --loss.length_normalized true --loss.beta 3.0" ;;
        positive-normalized) method="--loss.length_normalized true --loss.beta 3.0" ;;   # of answers of 39 tokens
    esac
    quiet "$run.txt" python -m megatron_bielik.posttrain.dpo --config "$HERE/dpo.yaml" --checkpoint.dir "$run" \
        --data.train "[$1.jsonl]" --data.valid "[$1-valid.jsonl]" --training.seed "$3" $method $OPTIONS
    [[ -d $run/final ]] && echo "$run done"
}
export -f quiet dpo

say "1/5 conversations and raw pairs"
[[ -f held-out.jsonl ]] || python "$HERE/data.py" --sft $SFT --pairs $PAIRS --held-out $HELD_OUT

say "2/5 pairs: inverted ones turned round by their scores"
for kind in $KINDS; do for name in $kind-valid $kind; do   # questions are alike by design: nothing to deduplicate
    [[ -f $name.jsonl ]] || python "$ROOT/tools/prepare_preferences.py" --input "raw-$name.jsonl" \
        --output "$name.jsonl" --report "$name.report.json" --near-duplicates none | tail -n 1
done; done

say "3/5 a model that can do the task, more or less"
[[ -d random ]] || python "$HERE/../tiny_chat.py" base --conversations sft.jsonl --output random $MODEL
[[ -d sft/final ]] || quiet sft.txt python -m megatron_bielik.posttrain.sft --config "$HERE/sft.yaml" $OPTIONS

say "4/5 preference optimisation"
printf '%s\n' "$RUNS" | xargs -P "${JOBS:-2}" -I LINE bash -euo pipefail -c "dpo LINE"

say "5/5 answers to questions never seen, report"
python "$HERE/../tiny_chat.py" answers --conversations held-out.jsonl --runs sft $(awk '{print $1 "-" $3 "-" $2}' <<< "$RUNS")
python "$HERE/report.py" --folder .
