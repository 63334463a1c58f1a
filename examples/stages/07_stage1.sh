#!/usr/bin/env bash
# Trains the copied outer layers and the embeddings, 56B tokens. 8xH100 nodes (model.sh: NODES). Resumes.
#   LAUNCH="sbatch --nodes 8 examples/launch/slurm.sh" examples/bielik-4.5b/07_stage1.sh       (Slurm)
#   NNODES=8 NODE_RANK=0 MASTER_ADDR=node0 examples/bielik-4.5b/07_stage1.sh          (torchrun, on each node)
#   DRY_RUN=1 examples/bielik-4.5b/07_stage1.sh                  (the plan: memory, schedule, days; needs no data)
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

DATA="${DATA:-data/shards}"
TOKENIZER="${TOKENIZER:-models/tokenizer}"
CHECKPOINT="${CHECKPOINT:-checkpoints/${model}-start}"
RUN="${RUN:-runs/${model}}"

train pretrain --config "${folder}/stage1.yaml" --data.train "$(mixture "${DATA}")" \
  --data.tokenizer "${TOKENIZER}" --checkpoint.init_from "${CHECKPOINT}" --checkpoint.dir "${RUN}" "$@"
