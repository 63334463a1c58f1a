#!/usr/bin/env bash
# Trains the copied outer layers and the embeddings, 56B tokens. 4 nodes of 8 H100. Started again, it resumes.
#   LAUNCH="sbatch --nodes 4 examples/launch/slurm.sh" examples/bielik-1.5b/3_stage1.sh         (Slurm)
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=node0 examples/bielik-1.5b/3_stage1.sh            (torchrun, on each node)
#   LAUNCH="python -m megatron_bielik.pretrain" examples/bielik-1.5b/3_stage1.sh --dry_run --world_size 32
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"
DATA="${DATA:-data/bielik-1.5b}"
TOKENIZER="${TOKENIZER:-models/bielik-1.5b-start}"
CHECKPOINT="${CHECKPOINT:-checkpoints/bielik-1.5b-start}"
RUN="${RUN:-runs/bielik-1.5b}"
read -r -a launch <<< "${LAUNCH:-examples/launch/torchrun.sh}"

"${launch[@]}" --config "${here}/stage1.yaml" \
  --data.train "[{prefix: ${DATA}/polish, weight: 0.81}, {prefix: ${DATA}/english, weight: 0.19}]" \
  --data.tokenizer "${TOKENIZER}" --checkpoint.init_from "${CHECKPOINT}" --checkpoint.dir "${RUN}" "$@"
