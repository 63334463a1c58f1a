#!/usr/bin/env bash
# SFT, DPO-Positive and GRPO of the demo's model on a laptop, one after another, and an answer from the result.
#   make demo && examples/posttrain/run.sh
# Started again after an interruption it goes on: finished files are kept, each training resumes from its newest checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { printf '\n== %s\n' "$*"; }
problems() { [[ -f "posttrain/$1" ]] || python tools/generate_problems.py --output "posttrain/$1" --levels 1 "${@:2}" ${QUICK:+--count 16}; }
quick=${QUICK:+--training.steps 2 --schedule.warmup_steps 0}   # QUICK=1: does everything run? The answers mean nothing

[[ -d demo/hf ]] || { echo "demo/hf is not there: run make demo first" >&2; exit 1; }
mkdir -p posttrain

say "1/5 data: arithmetic problems with worked answers, the same as preferences"
problems problems-sft.jsonl --form sft --count 4000 --split train
problems problems-sft-held-out.jsonl --form sft --count 200 --split test
problems pairs-scored.jsonl --form dpo --count 1000 --split train --seed 1
problems pairs-held-out.jsonl --form dpo --count 100 --split test --seed 1
problems problems.jsonl --form grpo --count 1000 --split train --seed 2
problems problems-held-out.jsonl --form grpo --count 64 --split test --seed 2
[[ -f posttrain/pairs.jsonl ]] || python tools/prepare_preferences.py --input posttrain/pairs-scored.jsonl \
  --output posttrain/pairs.jsonl --near-duplicates none   # the problems differ in their numbers alone

say "2/5 supervised fine-tuning with the adaptive learning rate"
python -m megatron_bielik.posttrain.sft --config examples/posttrain/sft.yaml $quick "$@"

say "3/5 DPO-Positive"
python -m megatron_bielik.posttrain.dpo --config examples/posttrain/dpo.yaml $quick

say "4/5 GRPO"
python -m megatron_bielik.posttrain.grpo --config examples/posttrain/grpo.yaml $quick

say "5/5 an answer from the result, by plain transformers"
python examples/posttrain/chat.py --model posttrain/grpo/final --ask "Na stole leżało 5 piłek. Tomasz zabrał 2 piłki. Ile piłek zostało na stole?"
