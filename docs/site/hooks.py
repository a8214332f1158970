"""Pages of the site that are generated, and links that lead out of docs/: hooks of mkdocs.yml.

The reference of the commands comes from click, that of Python from the public names of the
packages. The documents beside docs/ (change log, contributing, datasets) and the notebook become
pages, too. `pages` needs neither MkDocs nor a network, so tests read what it writes.
"""

from __future__ import annotations

import functools
import html
import importlib
import inspect
import json
import posixpath
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click

ROOT = Path(__file__).parents[2]

#: Document of the repository, outside docs/ or no Markdown -> its page on the site.
PLACED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "data_manifests/README.md": "datasets.md",
    "docs/from-address-to-table.ipynb": "from-address-to-table.md",
}

#: Package -> modules whose public names are documented with its own. `headstock` is last: what
#: it has of the others is described there.
PACKAGES = {
    "featstore": ("featstore.plugins", "featstore.testing", "featstore.errors"),
    "fitters": ("fitters.scorers", "fitters.few_shot"),
    "bench": (),
    "headstock": (),
}

#: Names of modules that have no ``__all__``; of others all classes of errors.
NAMES = {
    "featstore.plugins": "register",
    "featstore.testing": "item_table toy_manifest toy_store write_set",
    "fitters.scorers": "csls",
}

#: Options of every command, which are described once.
EVERYWHERE = {"--help", "--plugin"}


def pages() -> dict[str, str]:
    """Return every generated page: its name in docs/ -> its Markdown."""
    made = {
        page: (ROOT / source).read_text("utf-8")
        for source, page in PLACED.items()
        if source not in ("README.md", "docs/from-address-to-table.ipynb")
    }
    made["from-address-to-table.md"] = _notebook(ROOT / "docs/from-address-to-table.ipynb")
    made["reference/cli/headstock.md"] = _commands()
    seen: dict[int, str] = {}
    made |= {f"reference/python/{name}.md": _package(name, seen) for name in PACKAGES}
    return made


# Commands


def _commands() -> str:
    """Return the reference of the commands."""
    program = importlib.import_module("headstock.__main__").cli
    return "\n".join(
        _section(context, path) for path, context in _contexts(program, ("headstock",))
    )


def _contexts(
    command: click.Command, path: tuple[str, ...], parent: click.Context | None = None
) -> Iterator[tuple[tuple[str, ...], click.Context]]:
    """Yield the context of a command and of all below it, in the order of the help."""
    context = click.Context(command, parent, path[-1], **command.context_settings)
    yield path, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _contexts(found, (*path, name), context)


def _section(context: click.Context, path: tuple[str, ...]) -> str:
    """Return the section of a command: what it does, how it is typed, examples, options."""
    command = context.command
    level = "#" * min(len(path), 3)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"{level} {' '.join(path)}\n", _prose(command.help or "")]
    lines.append(f"```text\n{' '.join(path)} {usage}\n```\n")
    for title, typed in _examples(command):
        lines.append(f"**{_escaped(title)}**\n\n```console\n{typed}\n```\n")
    if len(path) == 1:
        lines.append(
            "Every command also has `-h` or `--help`, and `--plugin MODULE|FILE.py`, which loads "
            "methods, tasks, encoders or others of your own.\n"
        )
    for title, options in _sections(command, context).items():
        records = [record for option in options if (record := option.get_help_record(context))]
        if records:
            lines.append(f"**{title}**\n")
            lines += [f"`{flags}`\n:   {_escaped(text)}\n" for flags, text in records]
    return "\n".join(lines)


def _sections(command: click.Command, context: click.Context) -> dict[str, list[click.Option]]:
    """Return the options of a command below the headings that its help has."""
    options = [
        param
        for param in command.get_params(context)
        if isinstance(param, click.Option) and not EVERYWHERE & set(param.opts)
    ]
    of_flag = {flag: option for option in options for flag in option.opts}
    given: dict[str, list[str]] = getattr(command, "sections", {})
    placed = {title: [of_flag[flag] for flag in flags] for title, flags in given.items()}
    rest = [one for one in options if not any(one in some for some in placed.values())]
    return {**placed, "More options" if placed else "Options": rest}


def _examples(command: click.Command) -> Iterator[tuple[str, str]]:
    """Yield the title and the command lines of each block that the help of a command ends with."""
    for block in re.split(r"\n\s*\n", (command.epilog or "").replace("\b\n", "")):
        title, _, lines = block.strip().partition(":")
        if lines.strip():
            yield title, textwrap.dedent(re.sub(r"^[ \n]*\n|^ +", "", lines)).rstrip()


def _prose(text: str) -> str:
    """Return a help text as Markdown: what stands line by line there, here too."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.lstrip().startswith("\b"):
            parts.append("```text\n" + paragraph.replace("\b\n", "").strip("\n") + "\n```")
        else:
            parts.append(_escaped(" ".join(paragraph.split())))
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Return plain text so that Markdown shows it as it is, but for code in backticks."""
    parts = text.split("`")
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = re.sub(r"([\\*_\[\]#|])", r"\\\1", html.escape(part, quote=False))
    return "`".join(parts)


# Python


def _package(name: str, seen: dict[int, str]) -> str:
    """Return the reference of a package: a table of its public names, then each of them."""
    package = importlib.import_module(name)
    modules = [package, *map(importlib.import_module, PACKAGES[name])]
    rows, parts = [], []
    for module in modules:
        for public in _public(module):
            value = getattr(module, public)
            path = seen.setdefault(id(value), f"{module.__name__}.{public}")
            rows.append(f"| [`{public}`][{path}] | {_escaped(_first_line(value))} |")
            if path == f"{module.__name__}.{public}":
                parts.append(f"::: {path}\n")
    table = "\n".join(["| name | what it is |", "|---|---|", *dict.fromkeys(rows), ""])
    about = inspect.getdoc(package) or ""
    return f"# {name}\n\n{about}\n\n{table}\n" + "\n".join(parts)


def _public(module: ModuleType) -> list[str]:
    """Return the public names of a module, without its version."""
    listed: list[str] = getattr(module, "__all__", None) or NAMES.get(module.__name__, "").split()
    listed = listed or [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and value.__module__ == module.__name__
    ]
    return sorted((name for name in listed if name != "__version__"), key=str.lower)


def _first_line(value: Any) -> str:
    if inspect.isclass(value) or inspect.isroutine(value):
        return (inspect.getdoc(value) or "").partition("\n")[0]
    return f"A {type(value).__name__} of {len(value)} entries." if hasattr(value, "__len__") else ""


# The notebook


def _notebook(file: Path) -> str:
    """Return a notebook as Markdown, with the outputs that are stored in it."""
    parts = []
    for cell in json.loads(file.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                png = "".join(data["image/png"]).strip()
                parts.append(f'<img alt="Plot" src="data:image/png;base64,{png}">')
            elif "text/html" in data:
                parts.append(f'<div class="output" tabindex="0">{"".join(data["text/html"])}</div>')
            elif text := "".join(data.get("text/plain", output.get("text", ()))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


# Hooks


def on_files(files: Any, *, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Lead links to where a document is on the site; name a file of the source without a link."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation", "toc"]
    return relinked(coloured(markdown), page.file.src_uri)


def coloured(markdown: str) -> str:
    """Return a page whose console blocks without a prompt are marked as commands, not as output."""

    def marked(found: re.Match[str]) -> str:
        has_prompt = re.search(r"^\$ ", found[1], flags=re.MULTILINE)
        return found[0] if has_prompt else found[0].replace("```console", "```sh", 1)

    return re.sub(r"^```console\n(.*?)^```", marked, markdown, flags=re.DOTALL | re.MULTILINE)


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """Link the documents and names that the help of commands and docstrings mention."""
    return cross_linked(content) if page.file.src_uri.startswith("reference/") else content


def on_post_page(output: str, **_: Any) -> str:
    """Name the search for screen readers: the theme does not."""
    return output.replace(
        'data-md-component="search" role="dialog"',
        'data-md-component="search" role="dialog" aria-label="Search"',
    )


def cross_linked(content: str) -> str:
    """Return a page of the reference with links for what it mentions.

    A public name is linked unless it is a word like `fit`, which may be a method or a parameter. A
    docstring's ``::`` before a block of text is a colon.
    """

    def to_name(found: re.Match[str]) -> str:
        path = _targets().get(found[1].removeprefix("hs.").rpartition(".")[2])
        distinct = re.search(r"[A-Z_]", found[1]) is not None
        return (
            f'<autoref identifier="{path}">{found[0]}</autoref>' if path and distinct else found[0]
        )

    def to_document(found: re.Match[str]) -> str:
        there = (ROOT / "docs" / f"{found[1]}.md").is_file()
        return f'<a href="../../{found[1]}.html">{found[0]}</a>' if there else found[0]

    content = re.sub(r"(?:(?<!>)|(?<=<p>))<code>([A-Za-z0-9_.]+)</code>(?!<)", to_name, content)
    content = re.sub(r"(?<![\w/\"])docs/([\w/-]+)\.md", to_document, content)
    return content.replace("::</p>", ":</p>")


@functools.cache
def _targets() -> dict[str, str]:
    """Return where each public name is described."""
    seen: dict[int, str] = {}
    for name in PACKAGES:
        _package(name, seen)
    return {path.rpartition(".")[2]: path for path in seen.values()}


@functools.cache
def _title(document: Path) -> str:
    """Return the first heading of a document."""
    found = re.search(r"^# (.+)$", document.read_text("utf-8"), flags=re.MULTILINE)
    return document.name if found is None else found[1]


def relinked(markdown: str, name: str) -> str:
    """Return a page with its links as they are on the site.

    A link whose text is the name of a file has the title of that page instead.

    Parameters
    ----------
    markdown : str
        The page as it stands in the repository.
    name : str
        Its name on the site, relative to docs/.
    """
    sources = {page: source for source, page in PLACED.items() if source != "README.md"}
    here = posixpath.dirname(sources.get(name, f"docs/{name}"))

    def lead(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if re.match(r"[a-z]+:", target) or name.startswith("reference/"):
            return found[0]
        path = posixpath.normpath(posixpath.join(here, target))
        if path in PLACED:
            place = PLACED[path]
        elif path.startswith("docs/"):
            place = path.removeprefix("docs/")
        else:
            return text if text.startswith("`") else f"`{text}`"
        if text.endswith(".md") and text.endswith(posixpath.basename(target)):
            text = _title(ROOT / path)
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(name) or '.')}{anchor})"

    pieces = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    pieces[::2] = [
        re.sub(r"\[([^]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)", lead, one) for one in pieces[::2]
    ]
    return "".join(pieces)
