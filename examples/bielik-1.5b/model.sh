# shellcheck shell=bash disable=SC2034
# What Bielik 1.5B v3 has of its own beside its YAML; read by launch/stage.sh.
BASE_NAME=Qwen/Qwen2.5-1.5B
BASE="${BASE:-models/Qwen2.5-1.5B}"
DROP=0             # no up-scaling: 28 layers, and two more copies of the outermost make 32
NODES=4            # of 8 H100, for the two stages
LAST=dpo           # the last training; the report has no GRPO for this size
