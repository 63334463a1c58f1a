"""Let a tool read its command line and stop there: exit code 0 if it takes every option, its own message if not."""

from __future__ import annotations

import argparse
import runpy
import sys
from typing import Any

import jsonargparse

USAGE = "usage: python examples/launch/check_options.py tools/NAME.py OPTION..."


class _Accepted(BaseException):
    """The tool has parsed its options. No Exception, so that no tool takes it for an error of its own."""


def accepts(arguments: list[str]) -> bool:
    """Run a tool up to the end of its option parsing.

    Args:
        arguments: Path of the tool and its options.

    Returns:
        False where the tool ended without asking for its options.

    Raises:
        SystemExit: The tool refuses an option; it has said which.
    """
    parsers: tuple[type[Any], ...] = (argparse.ArgumentParser, jsonargparse.ArgumentParser)
    originals = [parser.__dict__["parse_args"] for parser in parsers]

    def stopping(original: Any) -> Any:
        def parse_args(self: Any, *given: Any, **named: Any) -> None:
            original(self, *given, **named)
            raise _Accepted

        return parse_args

    before = sys.argv
    sys.argv = arguments
    try:
        for parser, original in zip(parsers, originals, strict=True):
            parser.parse_args = stopping(original)
        runpy.run_path(arguments[0], run_name="__main__")
    except _Accepted:
        return True
    finally:
        sys.argv = before
        for parser, original in zip(parsers, originals, strict=True):
            parser.parse_args = original
    return False


def main() -> None:
    """Check, say so."""
    if len(sys.argv) < 2:
        sys.exit(USAGE)
    if not accepts(sys.argv[1:]):
        sys.exit(f"error: {sys.argv[1]} read no options, needs a tool that does")
    print(f"the options of {sys.argv[1]} are accepted")


if __name__ == "__main__":
    main()
