"""Raw text to a clean corpus: read, repair, anonymise, filter, deduplicate, features, quality and topic scores, write, report."""

from __future__ import annotations

import sys

from megatron_bielik.command import one_line_errors
from megatron_bielik.corpus.prepare import make_plan
from megatron_bielik.corpus.prepare_config import CorpusConfig
from megatron_bielik.corpus.prepare_run import run
from megatron_bielik.settings import as_yaml, make_parser, parse

EXAMPLES = """examples:
  python tools/prepare_corpus.py --config corpus.yaml
  python tools/prepare_corpus.py --config corpus.yaml --executor.tasks 64 --executor.workers 16
  python tools/prepare_corpus.py --config corpus.yaml --executor.kind slurm --executor.partition cpu
  python tools/prepare_corpus.py --config corpus.yaml --near_duplicates.enabled false --show_config

the smallest corpus.yaml:
  input: [{path: web.jsonl}]
  output: {folder: clean}
"""


def main() -> None:
    parser = make_parser("tools/prepare_corpus.py", __doc__ or "", EXAMPLES, CorpusConfig)
    parser.add_argument("--overwrite", action="store_true", help="replace results of other options or inputs")
    parser.add_argument("--show_config", action="store_true", help="print all options with their values, and end")
    with one_line_errors(ValueError, ImportError):
        config, values = parse(parser)
        if values.show_config:
            print(as_yaml(config), end="")
            return
        plan = make_plan(config)
        report = run(plan, values.overwrite, lambda line: print(line, file=sys.stderr))
    if report is not None:
        first, last = report["steps"][0], report["steps"][-1]
        print(
            f"{plan.output}: {last['out']['documents']:,} of {first['in']['documents']:,} documents, "
            f"{last['out']['text_bytes'] / 1e6:,.1f} MB; see {plan.output}/report.md"
        )


if __name__ == "__main__":
    main()
