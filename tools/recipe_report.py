"""Write the report of a recipe run as one HTML page: what each stage brought, warnings, losses, scores, speed."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_bielik.command import one_line_errors

EXAMPLES = """examples:
  python tools/recipe_report.py --folder recipe --output recipe/report.html
a stage that did not run yet is left out
"""


def main() -> None:
    """Read, write, print the verdicts."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="of the run, as examples/recipe/run.sh makes it")
    parser.add_argument("--output", type=Path, required=True, help=".html to write")
    args = parser.parse_args()
    from megatron_bielik.evaluation.recipe_checks import gains, signatures
    from megatron_bielik.evaluation.recipe_page import write
    from megatron_bielik.evaluation.recipe_run import read_run

    with one_line_errors(ValueError):
        run = read_run(args.folder)
        write(run, args.output)
    for one in gains(run):
        sign = "better" if one.helped else "WORSE "
        print(f"{sign}  {one.stage:<10} {one.before:9.3f} -> {one.after:9.3f}  {one.measure}")
    for mark in signatures(run):
        if not mark.fine:
            print(f"warning: {mark.name}: {mark.value:.3g}, limit {mark.limit:.3g}; {mark.hint}")
    print(args.output)


if __name__ == "__main__":
    main()
