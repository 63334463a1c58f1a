# shellcheck shell=bash disable=SC2034
# What Bielik 4.5B v3 has of its own beside its YAML; read by launch/stage.sh.
BASE_NAME=Qwen/Qwen2.5-3B
BASE="${BASE:-models/Qwen2.5-3B}"
DROP=8             # layers 0..27, then 8..35: 36 to 56, and two more copies of the outermost make 60
NODES=8            # of 8 H100, for the two stages
LAST=grpo          # the last training
