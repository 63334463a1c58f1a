#!/usr/bin/env bash
# The whole main job on a laptop: text, tokenizer, shard, tensor-parallel training, export, generation, summary.
#   make demo            (sets up .venv first)
#   examples/demo/demo.sh --training.steps 50        options are passed on to the training
# Started again after an interruption it goes on: finished files are kept, training resumes from its newest checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export OMP_NUM_THREADS=1   # two training processes on two cores

say() { printf '\n== %s\n' "$*"; }

say "1/6 corpus: 12 MB of grammatical Polish"
[[ -f demo/corpus.jsonl ]] || python tools/generate_corpus.py --output demo/corpus.jsonl --megabytes 12 --seed 1

say "2/6 tokenizer: SentencePiece BPE, 2,048 entries"
[[ -d demo/tokenizer ]] || python tools/train_tokenizer.py --input demo/corpus.jsonl --vocab-size 2048 --output demo/tokenizer

say "3/6 shard: text to .bin and .idx"
[[ -f demo/shard.idx ]] || python tools/preprocess_data.py --input demo/corpus.jsonl --tokenizer demo/tokenizer --output-prefix demo/shard

say "4/6 training: 2 processes, tensor parallel, gloo"
torchrun --standalone --nproc-per-node 2 -m megatron_bielik.pretrain --config examples/demo/run.yaml "$@"

say "5/6 export to Hugging Face"
rm -rf demo/hf
python tools/convert_checkpoint.py export-hf --input demo/run --output demo/hf

say "6/6 text from the export, by plain transformers"
python examples/demo/generate.py --model demo/hf
python examples/demo/summary.py --run demo/run --shard demo/shard --corpus demo/corpus.jsonl --export demo/hf
