"""The site of the documentation: the repository's own Markdown files as Sphinx pages. `make docs` builds it into site/.

The source folder is the repository's root, so that a link means the same on the site and in the repository.
"""

from __future__ import annotations

from sphinx.application import Sphinx

project = "megatron_bielik"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "examples/**/README.md"]
# Folders that are not even looked into.
exclude_patterns = [
    ".*",
    "build",
    "site",
    "demo",
    "recipe",
    "runs",
    "experiments",
    "posttrain",
    "megatron_bielik",
    "tests",
]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "megatron_bielik"
html_show_copyright = False
html_show_sourcelink = False
templates_path = ["."]
html_additional_pages = {"index": "redirect.html"}

NAVIGATION = {
    "First steps": {"The whole recipe on a laptop": "examples/recipe/README"},
    "Stations": {
        "Corpus": "docs/corpus",
        "Features": "docs/features",
        "Tokenizer": "docs/tokenizer",
        "Surgery": "docs/surgery",
        "Data": "docs/data",
        "Model and kernels": "docs/model",
        "Planning": "docs/planning",
        "Training": "docs/training",
        "Diagnosis": "docs/diagnosis",
        "Conversion": "docs/conversion",
        "Post-training": "docs/posttrain",
        "Evaluation": "docs/evaluation",
    },
    "On a cluster": {
        "The stages": "examples/stages/README",
        "Bielik 1.5B": "examples/bielik-1.5b/README",
        "Bielik 4.5B": "examples/bielik-4.5b/README",
    },
    "Another language": {"What changes": "docs/languages", "Czech": "examples/czech/README"},
    "Experiments": {
        "Quality classifier": "examples/experiments/quality_classifier/README",
        "Tokenizer replacement": "examples/experiments/tokenizer_replacement/README",
        "Adaptive learning rate": "examples/experiments/sft_alr/README",
        "DPO-Positive": "examples/experiments/dpo_positive/README",
        "GRPO": "examples/experiments/grpo_math/README",
    },
    "Reference": {
        "File formats": "docs/formats",
        "Performance": "docs/performance",
        "Notebook": "docs/notebook",
        "Contributing": "CONTRIBUTING",
        "Changes": "CHANGELOG",
    },
}


def add_navigation(_: Sphinx, page: str, text: list[str]) -> None:
    """The front page lists all others, out of sight: the README itself has no use for such a list."""
    if page == root_doc:
        for caption, pages in NAVIGATION.items():
            entries = "\n".join(f"{title} </{path}>" for title, path in pages.items())
            text[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", add_navigation)
