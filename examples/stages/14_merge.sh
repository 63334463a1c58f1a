#!/usr/bin/env bash
# The linear average of the last three checkpoints of the last training (model.sh: LAST): the final model. One CPU node.
#   PARTS="a b c" examples/bielik-4.5b/14_merge.sh      (others, for example of several runs)
#   DRY_RUN=1 examples/bielik-4.5b/14_merge.sh
set -euo pipefail
# shellcheck source=examples/launch/stage.sh
source "$(dirname "$0")/../launch/stage.sh"

RUN="${RUN:-runs/${model}-${LAST}}"
OUTPUT="${OUTPUT:-models/${model}-instruct}"

average "the ${LAST} stage" "$@"
