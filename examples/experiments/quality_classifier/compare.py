"""Gathers the four reports of run.sh: results.json, a table on the screen, and results.png."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib

from megatron_bielik.corpus import corruptions

matplotlib.use("Agg")
from matplotlib import pyplot

WAYS = ("softprob-none", "softprob-balanced", "ordinal-none", "ordinal-balanced")
SETS = ("new_documents", "new_level", "new_level_and_corruptions")


def main(folder: Path) -> None:
    reports = {way: json.loads((folder / f"{way}.report" / "report.json").read_text()) for way in WAYS}
    results: dict[str, Any] = {
        way: {name: report["scores"][name] for name in SETS}
        | {"importance": dict(list(report["importance"].items())[:10])}
        for way, report in reports.items()
    }
    results["unseen corruptions"] = sorted(corruptions.UNSEEN)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name in SETS:
        print(f"\n{name}\n{'':20} accuracy  macro-F1  MEDIUM: precision  recall     F1")
        for way in WAYS:
            score = results[way][name]
            medium = score["classes"]["MEDIUM"]
            print(
                f"{way:20} {score['accuracy']:8.3f} {score['macro_f1']:9.3f} {medium['precision']:17.3f} "
                f"{medium['recall']:7.3f} {medium['f1']:6.3f}"
            )
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    for axes, name in zip(panels, SETS, strict=True):
        for i, measure in enumerate(("precision", "recall")):
            values = [results[way][name]["classes"]["MEDIUM"][measure] for way in WAYS]
            axes.barh([y + 0.2 - 0.4 * i for y in range(4)], values, 0.38, label=f"MEDIUM {measure}")
        axes.plot([results[way][name]["macro_f1"] for way in WAYS], range(4), "kd", label="macro-F1")
        axes.set(title=name.replace("_", " "), xlim=(0, 1), yticks=range(4), yticklabels=WAYS)
    panels[0].legend(fontsize=7, loc="lower left")
    figure.savefig(folder / "results.png", dpi=120)
    for picture in ("confusion", "calibration", "importance"):
        shutil.copy(folder / "softprob-none.report" / f"{picture}.png", folder / f"{picture}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
