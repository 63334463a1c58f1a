#!/usr/bin/env bash
# The linear average of SFT's last three checkpoints, with equal weights. One CPU node.
#   PARTS="a b c" examples/bielik-4.5b/11_merge_sft.sh      (others, for example of several runs)
#   DRY_RUN=1 examples/bielik-4.5b/11_merge_sft.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

RUN="${RUN:-runs/${model}-sft}"
OUTPUT="${OUTPUT:-models/${model}-sft-merged}"

average 10_sft.sh "$@"
