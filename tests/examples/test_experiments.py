"""The worked experiments, at the smallest sizes: every step runs, what is finished is not made again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.conftest import script_environment

ROOT = Path(__file__).parents[2]


def run_quick(name: str, output: Path) -> str:
    script = ROOT / "examples" / "experiments" / name / "run.sh"
    environment = script_environment(QUICK="1", XDG_CACHE_HOME=str(output / "cache"))
    done = subprocess.run(
        [str(script), str(output)], capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_tokenizer_replacement(tmp_path: Path) -> None:
    run_quick("tokenizer_replacement", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["methods"]) == {"focus", "random"}
    assert all(method["first_loss"] > 0 for method in results["methods"].values())
    assert (tmp_path / "out" / "results.png").read_bytes().startswith(b"\x89PNG")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if "results" not in path.name}
    run_quick("tokenizer_replacement", tmp_path / "out")
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if "results" not in path.name}
    assert again == {path: again[path] if path.is_dir() else time for path, time in made.items()}


def test_quality_classifier(tmp_path: Path) -> None:
    printed = run_quick("quality_classifier", tmp_path / "out")
    assert printed.count("ordinal-balanced") >= 3
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = results["softprob-none"]["new_level_and_corruptions"]
    assert scores["documents"] == 120
    assert scores["accuracy"] > 0.6
    assert (tmp_path / "out" / "results.png").read_bytes().startswith(b"\x89PNG")
