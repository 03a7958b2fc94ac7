"""The README and the pages of docs/: line lengths, links, tables, generated flags, the site itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.markdown import PAGES, ROOT, load_script, prose_lines, tables

LONGEST = 160


def page_names(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_names)
def test_no_line_of_prose_is_longer_than_160_characters(page: Path) -> None:
    long = {number: len(line) for number, line in prose_lines(page.read_text()) if len(line) > LONGEST}
    assert not long, f"lines of {page_names(page)} and their lengths: {long}"


@pytest.mark.parametrize("page", PAGES, ids=page_names)
def test_every_table_has_a_head(page: Path) -> None:
    headless = [rows[0] for rows in tables(page.read_text()) if not re.search(r"\w", rows[0])]
    assert not headless


@pytest.mark.parametrize("page", PAGES, ids=page_names)
def test_links_to_files_lead_to_files(page: Path) -> None:
    text = "\n".join(line for _, line in prose_lines(page.read_text(), links=True))
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    generated = {"changelog.md"}  # the hook makes this page from CHANGELOG.md
    lost = [
        target
        for target in targets
        if ":" not in target and target not in generated and not (page.parent / target).exists()
    ]
    assert not lost


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as Python-Markdown and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_names)
def test_links_to_sections_lead_to_headings(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", page.read_text())
    lost = [
        f"{file}#{anchor}"
        for file, anchor in targets
        if (target := page.parent / file if file else page).suffix == ".md"
        and target.exists()
        and anchor not in _anchors(target)
    ]
    assert not lost


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_flags_in_the_pages_of_commands_are_those_of_the_parsers() -> None:
    pages = load_script("docs/hooks/command_pages.py")
    for name, parser in pages.parsers().items():
        text = (pages.PAGES / f"{name}.md").read_text()
        assert pages.with_flags(text, pages.flags_of(parser)) == text, f"{name}.md is out of date: run make docs"


def test_every_page_of_a_command_has_a_command() -> None:
    pages = load_script("docs/hooks/command_pages.py")
    assert {file.stem for file in pages.PAGES.glob("*.md")} == {*pages.parsers(), "index"}


def test_the_picture_of_the_readme_is_drawn_from_the_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = load_script("bench/readme_picture.py")
    committed = picture.PICTURE.read_text()
    monkeypatch.setattr(picture, "ROOT", tmp_path)
    monkeypatch.setattr(picture, "PICTURE", tmp_path / "picture.svg")
    picture.main()
    assert (tmp_path / "picture.svg").read_text() == committed


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "minseek.reasoning.MinSeek" in (tmp_path / "reference" / "reasoning.html").read_text()
