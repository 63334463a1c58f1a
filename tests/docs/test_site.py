"""The site of the documentation is built without a warning (a link into nothing is one), and every page can be reached."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.conftest import shell
from tests.docs.documents import DOCUMENTS, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it, elsewhere."""
    folder = tmp_path_factory.mktemp("site")
    line = re.search(r"^docs:.*\n\t(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line
    done = shell(line[1].replace("build/doctrees", f"{folder}/trees").replace(" site", f" {folder}/site"), ROOT)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_every_document_is_a_page_that_the_front_page_lists(site: Path) -> None:
    front = (site / "README.html").read_text(encoding="utf-8")
    for document in DOCUMENTS:
        page = document.relative_to(ROOT).with_suffix(".html")
        assert (site / page).is_file(), page
        assert (page.name == "README.html" and page.parent == Path()) or f'href="{page}"' in front, page
    assert "README.html" in (site / "index.html").read_text()


def test_a_link_into_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# A\n\n[gone](nothing.md)\n")
    done = shell(
        f"sphinx-build -W -q -C -D extensions=myst_parser -D root_doc=README {tmp_path} {tmp_path}/site", tmp_path
    )
    assert done.returncode != 0
    assert "nothing.md" in done.stderr
