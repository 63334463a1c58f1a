#!/usr/bin/env bash
# Starts a training job on this node, or on several when each runs this script.
#   examples/launch/torchrun.sh --config run.yaml --training.steps 100
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=node0 examples/launch/torchrun.sh --config run.yaml     (once per node)
#   MODULE=megatron_bielik.posttrain.sft examples/launch/torchrun.sh --config sft.yaml               (another job)
set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: [NNODES=4 NODE_RANK=0 MASTER_ADDR=node0] $0 --config FILE [--section.option VALUE]..." >&2
  exit 2
fi

# shellcheck source=examples/launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

exec torchrun \
  --nnodes "${NNODES:-1}" \
  --node-rank "${NODE_RANK:-0}" \
  --nproc-per-node "${GPUS_PER_NODE:-8}" \
  --master-addr "${MASTER_ADDR:-127.0.0.1}" \
  --master-port "${MASTER_PORT:-29500}" \
  -m "${MODULE:-megatron_bielik.pretrain}" "$@"
