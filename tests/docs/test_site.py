"""The site that the pages make: every page is in its navigation, everything in it is its own, and it builds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.docs.figures import measured, with_figures
from tests.docs.snippets import snippets
from tests.house.tree import ROOT, files

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
COMPARISON = (DOCS / "comparison.md").read_text("utf-8")
LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "form": "action",
}
SHOWN_LINKS = {"canonical", "prev", "next", "alternate"}  # of these nothing is loaded


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose one object of Python is not made here."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
CONFIGURATION: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader)


def in_navigation(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for one in entry.values() if isinstance(entry, dict) else entry:
            yield from in_navigation(one)


def test_every_page_is_in_the_navigation_once() -> None:
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES]
    assert sorted(in_navigation(CONFIGURATION["nav"])) == sorted(pages)
    assert [next(iter(group)) for group in CONFIGURATION["nav"]] == ["Start", "Guides", "Reference", "Understanding"]


def test_every_client_of_the_installer_has_its_guide() -> None:
    from omium.server.install.clients import CLIENTS

    page = (DOCS / "clients.md").read_text("utf-8")
    assert [name for name in CLIENTS if f"omium mcp install {name}\n" not in page] == []


def test_records_of_decisions_say_what_a_record_says_and_are_listed_in_order() -> None:
    records = sorted((DOCS / "decisions").glob("0*.md"))
    listed = re.findall(r"^\d+\. \[.+\]\((.+)\)$", (DOCS / "decisions" / "index.md").read_text("utf-8"), re.MULTILINE)
    assert listed == [record.name for record in records]
    for number, record in enumerate(records, 1):
        text = record.read_text("utf-8")
        assert text.startswith(f"# {number}. ") and record.name.startswith(f"{number:03}-")
        marks = ("**Question.**", "**Decision.**", "**What follows.**", "**What it costs.**", "**Instead of**")
        assert [text.count(mark) for mark in marks] == [1] * 5, record.name
        assert snippets(record) == []


def test_the_figures_of_the_comparison_were_measured() -> None:
    benchmarks = (DOCS / "benchmarks.md").read_text("utf-8")
    assert with_figures(COMPARISON, benchmarks) == COMPARISON, "run: python -m tests.docs.generate"
    (names,) = re.findall(r"<!-- figures: (.+) -->", COMPARISON)
    rows = measured(benchmarks)
    assert all(rows[name]["ours"] not in ("", "-") for name in names.split())
    outside = COMPARISON.partition("<!-- figures")[0] + COMPARISON.rpartition("|\n")[2]
    assert re.findall(r"\d[\d,.]* (?:ms|KB|s|nodes|runs)\b", outside) == []  # no figure of another source


def test_the_limits_of_budgets_are_those_of_the_file() -> None:
    from omium.server.declared.budgets import BudgetFile

    block = (DOCS / "approvals.md").read_text("utf-8").partition("<!-- budgets -->\n")[2].partition("\n\n")[0]
    told = [key for line in block.splitlines()[2:] for key in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert sorted(told) == sorted(BudgetFile.model_fields)


def test_the_modes_of_the_guide_are_those_that_there_are() -> None:
    from typing import get_args

    from omium.orchestration.definition.model import ApprovalMode, Assurance

    page = (DOCS / "approvals.md").read_text("utf-8")
    for heading, words in (("| mode |", get_args(ApprovalMode)), ("| assurance |", get_args(Assurance))):
        block = page[page.index(heading) :].partition("\n\n")[0]
        assert [line.split("`")[1] for line in block.splitlines()[2:]] == sorted(words, key=block.index)
        assert len(block.splitlines()) == len(words) + 2


# --- built --------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page of the site loads, links to, and can be linked at."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if "id" in told:
            self.ids.add(told["id"])
        if tag == "a" and told.get("href"):
            self.links.append(told["href"])
        elif tag in LOADS and told.get(LOADS[tag]) and told.get("rel") not in SHOWN_LINKS:
            self.loads.append(told[LOADS[tag]])


def build(checkout: Path, into: Path) -> subprocess.CompletedProcess[str]:
    """Build strictly, so that a warning fails it. Not with `--quiet`, which keeps warnings from being counted."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(into)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("site")
    built = build(ROOT, into)
    assert built.returncode == 0, built.stdout + built.stderr
    return into


def test_what_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(DOCS, checkout / "docs")
    shutil.copyfile(ROOT / "mkdocs.yml", checkout / "mkdocs.yml")
    wrong = {"nowhere.md": "[a](nowhere.md)", "images/no.svg": "![a](images/no.svg)", "#none": "[a](start.md#none)"}
    with (checkout / "docs" / "index.md").open("a") as page:
        page.write("\n".join(("", *wrong.values())))
    (checkout / "docs" / "extra.md").write_text("# Not in the navigation\n")
    built = build(checkout, tmp_path / "site")
    assert built.returncode != 0
    assert [one for one in (*wrong, "extra.md") if one not in built.stderr] == []


@pytest.fixture(scope="module")
def read(site: Path) -> dict[Path, Links]:
    found: dict[Path, Links] = {}
    for page in site.rglob("*.html"):
        found[page] = Links()
        found[page].feed(page.read_text("utf-8"))
    return found


def test_every_page_is_built_and_nothing_else(site: Path, read: dict[Path, Links]) -> None:
    built = {page.relative_to(site).with_suffix("").as_posix() for page in read} - {"404"}
    assert built == {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES}
    assert not list(site.rglob("*.py"))


def test_the_site_loads_nothing_from_elsewhere(site: Path, read: dict[Path, Links]) -> None:
    for page, links in read.items():
        assert [one for one in links.loads if urlsplit(one).netloc] == [], page.name
        assert 'class="mermaid"' not in page.read_text("utf-8"), page.name  # for which the theme would load a script
    for sheet in site.rglob("*.css"):
        assert re.findall(r"""(?:url\(\s*["']?|@import\s+["'])(?:https?:)?//[^)"']+""", sheet.read_text("utf-8")) == []
    for image in files("docs"):
        if image.suffix == ".svg":
            assert not re.search(r'(?:href|src)="(?!#)|<script|@import|url\((?!#)', (ROOT / image).read_text("utf-8"))


def test_every_link_of_the_site_leads_somewhere(site: Path, read: dict[Path, Links]) -> None:
    for page, links in read.items():
        for link in (*links.links, *links.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert parts.scheme == "https", f"{page.name}: {link}"
                continue
            path = unquote(parts.path)
            there = (site / path.lstrip("/") if path.startswith("/") else page.parent / path) if path else page
            there = there.resolve()
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file() and there.is_relative_to(site.resolve()), f"{page.name}: {link}"
            if parts.fragment and there.suffix == ".html" and parts.fragment != "__skip":
                assert unquote(parts.fragment) in read[there].ids, f"{page.name}: {link}"


def test_tables_and_lists_are_tables_and_lists(site: Path) -> None:
    """What GitHub takes for one, and the site for text, is seen by its marks."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text("utf-8"), flags=re.DOTALL)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
            assert not re.search(r"\|-+\||\n(?:- |\d+\. |\| )", paragraph), f"{page.name}: {paragraph[:200]}"
