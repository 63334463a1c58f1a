#!/usr/bin/env bash
# The whole recipe on a laptop, from raw text to an evaluated chat model and a report page. Stages: dvc.yaml.
#   make recipe                              into recipe/, 17 minutes on two cores
#   examples/recipe/run.sh FOLDER            elsewhere
#   examples/recipe/run.sh FOLDER sft        up to a stage
#   QUICK=1 examples/recipe/run.sh FOLDER    minutes: does everything run? The figures mean nothing
# Started again it goes on: what is finished and unchanged is not redone, a killed training resumes.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
OUT=${1:-$ROOT/recipe}
mkdir -p "$OUT" && cd "$OUT"
# Threads that wait without spinning: beside other work, post-training with two threads is ten times as fast.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export DVC_NO_ANALYTICS=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1

[[ -d .dvc ]] || dvc init --no-scm --quiet
cp "$HERE/dvc.yaml" dvc.yaml
sed "s|^code: \.\.|code: $(realpath --relative-to . "$ROOT")|" "$HERE/${QUICK:+quick-}params.yaml" > params.yaml
exec dvc repro "${@:2}"   # in place of this shell: killed, it leaves no lock behind
