# shellcheck shell=bash
# What the stages share; sourced by them. Reads the model's sizes and gives need, run, once and train, which know DRY_RUN=1:
# nothing is started or written, each command is shown, its options are checked and missing inputs are named.
set -euo pipefail

folder="$(dirname "$0")"            # of the script as it was called: examples/bielik-4.5b
model="$(basename "${folder}")"
if [[ ! -f "${folder}/model.sh" ]]; then
  echo "error: $0 has no model.sh beside it; call a model's own script: examples/bielik-4.5b/$(basename "$0")" >&2
  exit 2
fi
# shellcheck source=examples/bielik-4.5b/model.sh
source "${folder}/model.sh"
if [[ "${DRY_RUN:-}" == 0 ]]; then
  DRY_RUN=
fi
missing=0

# need VARIABLE MAKER [SUFFIX]: the path or pattern in VARIABLE is an input; MAKER says where it comes from.
need() {
  local pattern="${!1}${3:-}" kind=error
  [[ -z "${DRY_RUN:-}" ]] || kind="not there yet"
  if ! compgen -G "${pattern}" > /dev/null; then
    echo "${kind}: $1 is ${pattern} ($2); to take another, give $1=PATH" >&2
    missing=$((missing + 1))
    [[ -n "${DRY_RUN:-}" ]] || exit 1
  fi
}

# first PATTERN: the first file of that name.
first() {
  compgen -G "$1" | sort | head -n 1 || echo "$1"
}

# show COMMAND...: as it can be pasted into a shell.
show() {
  printf 'would run:'
  printf ' %q' "$@"
  echo
}

# run python TOOL OPTION...
run() {
  if [[ -z "${DRY_RUN:-}" ]]; then
    "$@"
  elif show "$@" && [[ "${missing}" -eq 0 && "$2" =~ (merge_models|upscale_depth)\.py$ ]]; then
    "$@" --dry-run                   # these two know more than their options
  else
    python examples/launch/check_options.py "${@:2}"
  fi
}

# once OUTPUT python TOOL OPTION...: for tools that refuse an output that is there; it appears when it is complete.
once() {
  if [[ -e "$1" ]]; then
    echo "$1 is there already; remove it to make it again"
  else
    run "${@:2}"
  fi
}

# train MODULE OPTION...: under LAUNCH, torchrun by default.
train() {
  local launch module="megatron_bielik.$1"
  shift
  if [[ -z "${DRY_RUN:-}" ]]; then
    read -r -a launch <<< "${LAUNCH:-examples/launch/torchrun.sh}"
    MODULE="${module}" "${launch[@]}" "$@"
    return
  fi
  show python -m "${module}" "$@"
  if [[ "${module}" == *.pretrain ]]; then
    python -m "${module}" "$@" --dry_run --world_size "$((8 * NODES))" --device_memory_gib 80
  elif [[ "${missing}" -eq 0 ]]; then
    python -m "${module}" "$@" --dry_run
  else
    python -m "${module}" "$@" --print_config > /dev/null
    echo "the options of ${module} are accepted"
  fi
}

# link_result RUN OUTPUT: Slurm has only queued the job; link its result when it is there.
link_result() {
  if [[ -z "${DRY_RUN:-}" && -d "$1/final" && ! -e "$2" ]]; then
    mkdir -p "$(dirname "$2")"
    ln -s "$(realpath "$1/final")" "$2"
  fi
}

# mixture SHARDS: 292B tokens, 237B of them Polish as published. How the other 55B are shared is not: 13B instruction text, once
# the conversations of SFT, and 42B English are a choice made here. Weights are tokens in billions.
mixture() {
  echo "[{prefix: $1/polish, weight: 237}, {prefix: $1/english, weight: 42}, {prefix: $1/instruction, weight: 13}]"
}

# average MAKER OPTION...: PARTS, by default RUN's end and its two checkpoints before that, with equal weights, to OUTPUT.
average() {
  local checkpoint maker="$1" parts=()
  shift
  if [[ -n "${PARTS:-}" ]]; then
    read -r -a parts <<< "${PARTS}"
  else
    need RUN "${maker}" /final
    # The newest checkpoint is the end itself.
    for checkpoint in $(compgen -G "${RUN}/checkpoint-*" | sort --version-sort | tail -n 3 | head -n -1); do
      if [[ -d "${checkpoint}/pytorch_model_fsdp_0" ]]; then
        parts+=("${RUN}/whole-${checkpoint##*-}")
        once "${parts[-1]}" python examples/launch/whole_checkpoint.py --checkpoint "${checkpoint}" --like "${RUN}/final" \
          --output "${parts[-1]}"
        [[ -e "${parts[-1]}" ]] || missing=$((missing + 1))      # a dry run has not written it
      else
        parts+=("${checkpoint}")
      fi
    done
    if [[ "${#parts[@]}" -eq 0 && "${missing}" -eq 0 ]]; then
      echo "error: ${RUN} has no checkpoint before its last, nothing to average; give PARTS='MODEL MODEL'" >&2
      exit 1
    fi
    parts+=("${RUN}/final")
  fi
  once "${OUTPUT}" python tools/merge_models.py --models "${parts[@]}" --dtype bf16 --output "${OUTPUT}" "$@"
}
