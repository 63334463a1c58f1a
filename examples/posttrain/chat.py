"""One answer from a fine-tuned model, with nothing but transformers."""

from __future__ import annotations

import argparse

from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

EXAMPLES = """examples:
  python examples/posttrain/chat.py --model posttrain/sft/final --ask "Ile to jest 2 + 2?"
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--ask", required=True, help="what the user says")
    parser.add_argument("--tokens", type=int, default=100, help="longest answer (default 100)")
    args = parser.parse_args()
    # AutoTokenizer would split the text of any qwen2 model as Qwen2's own tokenizer does.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": args.ask}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=args.tokens, do_sample=False)
    print(f"user: {args.ask}")
    print("assistant:", tokenizer.decode(answer[0, prompt["input_ids"].size(1) :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
