"""A diagnosis on the screen and as JSON."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from megatron_bielik.corpus.records import write_whole
from megatron_bielik.training.diagnosis.diagnose import Diagnosis
from megatron_bielik.training.diagnosis.finding import Finding, Severity
from megatron_bielik.training.log import strict_json

_STYLES = {Severity.PROBLEM: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan", Severity.OK: "green"}


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print the findings, the worst first; what is fine takes one line each."""
    history = diagnosis.history
    total = "" if history.total_steps is None else f" of {history.total_steps:,}"
    console.print(
        Text(f"{history.folder}: {history.method}, step {history.last_step:,}{total}", style="bold"), soft_wrap=True
    )
    if not diagnosis.wrong:
        console.print(Text("nothing wrong found", style="green"))
    for finding in diagnosis.findings:
        _show_finding(finding, console)


def _show_finding(finding: Finding, console: Console) -> None:
    line = Text(f"{finding.severity.word:<8} ", style=_STYLES[finding.severity])
    line.append(f"{finding.check}: ", style="bold")
    line.append(finding.message, style="default")
    console.print(line, soft_wrap=True, highlight=False)
    for detail in finding.details:
        _show_below(f"- {detail}", console)
    if finding.advice:
        _show_below(f"-> {finding.advice}", console)


def _show_below(text: str, console: Console) -> None:
    console.print(Text(" " * 9 + text), soft_wrap=True, highlight=False)


def write_json(diagnosis: Diagnosis, path: Path) -> None:
    """Write the findings as one JSON object: run, method, step, findings. Raises DataError when the disk refuses."""
    history = diagnosis.history
    record = {
        "run": str(history.folder),
        "method": history.method,
        "step": history.last_step,
        "total_steps": history.total_steps,
        "findings": [finding.as_record() for finding in diagnosis.findings],
    }
    write_whole(path, strict_json(record) + "\n")
