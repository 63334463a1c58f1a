#!/usr/bin/env bash
# A tiny model learns the form of a solution by SFT and to be right by GRPO; then a reward that can be gamed, with and without the guard.
#   examples/experiments/grpo_math/run.sh [OUT]      default experiments/grpo_math
#   QUICK=1 examples/experiments/grpo_math/run.sh    a minute: does everything run? The figures mean nothing
# Started again after an interruption it goes on: what is finished is kept.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../../.." && pwd)
OUT=${1:-$ROOT/experiments/grpo_math${QUICK:+-quick}}
mkdir -p "$OUT" && cd "$OUT"
export PYTHONPATH=$HERE${PYTHONPATH:+:$PYTHONPATH}   # where gamed:calculations_shown is
export OMP_NUM_THREADS=1                             # two runs at a time on two cores

TRAIN=3000 TEST=200 BASE= SFT= GRPO= GAMED= GUARDED=
if [[ -n ${QUICK:-} ]]; then
    TRAIN=300 TEST=8 BASE="--entries 400 --width 48 --layers 1"
    SFT="--training.steps 60"
    SMALL="--training.micro_batch_size 32 --training.global_batch_size 32 --training.steps 4 --training.eval_interval 2"
    GRPO=$SMALL GAMED=$SMALL
    GUARDED="--loss.kl_limit 1e-5"                   # few steps, small steps: the guard is put where they get to
fi

say() { printf '\n== %s\n' "$*"; }
problems() {   # problems NAME COUNT SPLIT SEED FORM: level 1, both numbers at most 9
    [[ -s $1.jsonl ]] || python "$ROOT/tools/generate_problems.py" --output "$1.jsonl" --count "$2" --split "$3" --seed "$4" \
        --form "$5" --levels 1 --largest 9 --instruction ""
}
grpo() {   # grpo RUN [OPTION]...: a later --config would win over an earlier option, so the folder comes last
    [[ -d $1/final ]] || python -m megatron_bielik.posttrain.grpo --config "$HERE/grpo.yaml" "${@:2}" --checkpoint.dir "$1"
}

say "1/4 problems for SFT and for GRPO, and others held out; a tokenizer and random weights"
problems sft "$TRAIN" train 1 sft
problems grpo "$TRAIN" train 2 grpo
problems valid "$TEST" test 3 grpo
problems sft-valid "$TEST" test 3 sft
[[ -d base ]] || python "$HERE/../tiny_chat.py" base --conversations sft.jsonl --output base --entries 1000 $BASE

say "2/4 SFT"
[[ -d sft/final ]] || python -m megatron_bielik.posttrain.sft --config "$HERE/sft.yaml" $SFT

say "3/4 GRPO, paid for the right answer; beside it paid for calculations shown, without the guard and with it"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
grpo grpo $GRPO & first=$!
grpo gamed --config "$HERE/gamed.yaml" --loss.kl_limit null $GAMED
if ! grep -qs 'more than loss.kl_limit' guarded/log.jsonl; then
    code=0
    grpo guarded --config "$HERE/gamed.yaml" $GAMED $GUARDED || code=$?
    [[ $code == 1 ]] || { echo "the guard did not stop the run: exit code $code" >&2; exit 1; }
fi
wait "$first"

say "4/4 report"
python "$HERE/report.py" --folder .
