"""The README.md of a merged model: what it is made of, how, and a front matter that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from megatron_bielik.surgery.merge_sources import Source

if TYPE_CHECKING:
    from megatron_bielik.surgery.merge import MergeOptions

_FORMULAS = {
    "linear": "the sum of w_i · model_i",
    "task-arithmetic": "base + the sum of w_i · (model_i − base)",
    "slerp": "spherical interpolation from the first model (t = 0) to the second (t = 1), tensor by tensor",
}


def write_model_card(
    folder: Path,
    options: MergeOptions,
    sources: Sequence[Source],
    rules: Sequence[tuple[str, Sequence[float], int]],
) -> None:
    """Write README.md. It holds no time and no path, so that the same merge gives the same file.

    Args:
        sources: The models, with a base as the last.
        rules: Pattern, weights as given, and how many tensors follow it.
    """
    labels = [source.label for source in sources]
    front = {
        "base_model": list(dict.fromkeys(labels)),
        "library_name": "transformers",
        "tags": ["merge"],
        "merge": {
            "method": options.method,
            **({"normalize": options.normalize} if options.method == "linear" else {}),
            "weights": [{"tensors": pattern, "values": list(values)} for pattern, values, _ in rules],
            "sources": [{"model": source.label, "sha256": source.digest()} for source in sources],
        },
    }
    formula = _FORMULAS[options.method]
    if options.method == "linear":
        formula += ", the weights divided by their sum" if options.normalize else ", the weights as they are"
    roles = ["" for _ in options.models] + [" (base)"] * (options.base is not None)
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# Merge of {', '.join(labels)}",
        "",
        f"Method: {options.method}: {formula}. Summed in float64, rounded once.",
        "",
        "| model | config and tensor list, SHA-256 |",
        "|---|---|",
        *(f"| {source.label}{role} | `{source.digest()}` |" for source, role in zip(sources, roles, strict=True)),
        "",
        f"| tensors | {'t' if options.method == 'slerp' else 'weights, in the order above'} | how many |",
        "|---|---|---|",
        *(f"| `{pattern}` | {', '.join(map(repr, values))} | {count} |" for pattern, values, count in rules),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
