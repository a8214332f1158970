"""The documentation site: generated pages, links and navigation; `make docs` builds it whole."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import click
import pytest

from tests.typed import commands

ROOT = Path(__file__).parents[1]


def _load_hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = _load_hooks()


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return HOOKS.pages()


def test_every_command_and_option_has_its_place_in_the_reference(pages: dict[str, str]) -> None:
    parts = re.split(r"^#+ (.+)$", pages["reference/cli/headstock.md"], flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    known = {" ".join(path): command for path, command in commands()}
    assert list(sections) != []
    assert sections.keys() == known.keys()
    for path, command in known.items():
        described = set(re.findall(r"^`(.+)`\n:   ", sections[path], flags=re.MULTILINE))
        flags = {word.strip(",") for text in described for word in text.split()}
        own = {
            one.opts[0]
            for one in command.params
            if isinstance(one, click.Option) and not one.hidden
        }
        assert own - HOOKS.EVERYWHERE <= flags, path
        assert "```console\nheadstock" in sections[path], f"{path}: no example"


def test_every_public_name_is_described_exactly_once(pages: dict[str, str]) -> None:
    described = Counter[str]()
    for package in HOOKS.PACKAGES:
        page = pages[f"reference/python/{package}.md"]
        targets = re.findall(r"^\| \[`\w+`\]\[(.+?)\]", page, re.MULTILINE)
        named = {target.rpartition(".")[2] for target in targets}
        assert (set(importlib.import_module(package).__all__) - {"__version__"}) <= named
        described.update(re.findall(r"^::: (\S+)$", page, re.MULTILINE))
        assert set(targets) <= set(described)
    assert set(described.values()) == {1}
    assert described["featstore.open_store"] == 1
    assert "headstock.open_store" not in described


def test_the_navigation_names_every_page_once(pages: dict[str, str]) -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = re.findall(r": (\S+\.md)$", text[text.index("\nnav:") :], flags=re.MULTILINE)
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert Counter(named) == Counter(written | pages.keys())


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("ref/tasks.md", "[ties](tasks.md#ties)", "[ties](tasks.md#ties)"),
        ("share.md", "[x](../README.md)", "[x](index.md)"),
        ("share.md", "[tasks.md](ref/tasks.md#ties)", "[Tasks and metrics](ref/tasks.md#ties)"),
        ("share.md", "[docs/glossary.md](glossary.md)", "[Words](glossary.md)"),
        ("measurements/scaling.md", "[x](../../CHANGELOG.md#a)", "[x](../changelog.md#a)"),
        ("results.md", "![x](confidence.svg)", "![x](confidence.svg)"),
        ("changelog.md", "[x](docs/share.md)", "[x](share.md)"),
        ("datasets.md", "[x](../docs/ref/data.md)", "[x](ref/data.md)"),
        ("share.md", "[x](from-address-to-table.ipynb)", "[x](from-address-to-table.md)"),
        ("python.md", "[test.py](../tests/test.py)", "`test.py`"),
        ("python.md", "[x](https://example.org/a.md)", "[x](https://example.org/a.md)"),
        ("python.md", "```\n[x](../README.md)\n```", "```\n[x](../README.md)\n```"),
    ],
)
def test_a_link_of_the_repository_leads_to_its_page(page: str, link: str, there: str) -> None:
    assert HOOKS.relinked(link, page) == there


def test_names_and_documents_in_docstrings_become_links() -> None:
    shown = (
        "<p><code>fitters.MiniVec2VecAligner</code>, <code>hs.open_store</code>, <code>fit</code>"
        " and <code>no_such_name</code>; see docs/ref/data.md, docs/nowhere.md::</p>"
    )
    linked = HOOKS.cross_linked(shown)
    for path in ("fitters.MiniVec2VecAligner", "featstore.open_store"):
        assert f'<autoref identifier="{path}"><code>' in linked
    assert linked.count("<autoref") == 2
    assert '<a href="../../ref/data.html">docs/ref/data.md</a>, docs/nowhere.md:</p>' in linked


def test_the_notebook_is_a_page_with_its_outputs(pages: dict[str, str]) -> None:
    page = pages["from-address-to-table.md"]
    cells = json.loads((ROOT / "docs/from-address-to-table.ipynb").read_text("utf-8"))["cells"]
    for cell in cells:
        assert "".join(cell["source"]) in page
    assert page.count("```python") == sum(cell["cell_type"] == "code" for cell in cells)
    assert page.count("data:image/png") == 2
