"""The command search: a folder's pictures, found by text."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
import webbrowser
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from bench.options import SearchConfig
from featstore.command_line import (
    EXIT_SKIPPED,
    SectionedCommand,
    count,
    json_option,
    print_json,
    usage_error,
)
from featstore.options import config_from, options_from
from featstore.terminal import ProgressBar, drawing_on, encodable, human_bytes, say, visible

if TYPE_CHECKING:
    from bench.search import Searcher


@click.command(
    "search",
    cls=SectionedCommand,
    sections={"Options": "--top --interactive --serve --out --source --store"},
    epilog="\b\nExample:"
    '\n  headstock search photos "a red car"'
    "\n  headstock search photos"
    "\n  headstock search photos --serve",
)
@click.argument("folder", type=click.Path(file_okay=False, resolve_path=True, path_type=Path))
@click.argument("query", required=False)
@options_from(SearchConfig, "top")
@click.option("-i", "--interactive", is_flag=True, help="Read texts from a prompt, one a line.")
@options_from(SearchConfig, "source")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), default=None, metavar="FILE",
    help="Write the offline page here; without QUERY [default: search.html].",
)  # fmt: skip
@click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")
@click.option("--no-names", is_flag=True, help="Leave names of files out of the page.")
@click.option(
    "--serve", is_flag=True, help="Serve the page, with any text, to this machine's browser."
)
@click.option(
    "--store", type=click.Path(path_type=Path, file_okay=False), default=None, metavar="STORE",
    help="Keep the embeddings in this store [default: user's cache].",
)  # fmt: skip
@options_from(SearchConfig, "encoder", "text_encoder", "head")
@json_option
def search_command(
    folder: Path,
    query: str | None,
    interactive: bool,
    out: Path | None,
    no_open: bool,
    no_names: bool,
    serve: bool,
    store: Path | None,
    as_json: bool,
    **asked: Any,
) -> int:
    """Search the pictures below a folder by text; no picture has a label.

    The head of an image classifier says where texts lie among pictures: that of EfficientNet-lite0,
    made for 1,000 classes, or of --encoder. With QUERY the best ten are listed. Without it a page
    is written: one offline file that answers 15,000 words, beside random vectors and shuffled
    names. The first run encodes all pictures, later ones what is new. Nothing leaves this machine,
    and the folder is never written to. Pictures that cannot be read are counted, and the exit code
    is then 3.
    """
    from data_manifests import cache_folder

    if not folder.is_dir():
        raise usage_error(f"{folder} is no folder. Name the one that holds the pictures.")
    if query is not None and not query.strip():
        raise usage_error('QUERY is empty. Say what to look for ("a red car"), or leave it out.')
    config = config_from(SearchConfig, asked)
    mode = _mode(
        {"QUERY": query is not None, "-i": interactive, "--serve": serve},
        {"-o": out, "--no-open": no_open, "--no-names": no_names and not serve},
    )
    place = (store or cache_folder("search")).absolute()
    # Beside no picture, if nothing is said.
    beside = place / "search" / f"{folder.name}.html" if Path.cwd().is_relative_to(folder) else None
    page = out or beside or Path("search.html")
    _check_places(folder, {"--store": place} if mode else {"--store": place, "-o": page})
    # What is written from here on is for the user's eyes alone; so is what other processes write.
    os.umask(0o077)
    if config.has_defaults:  # their weights come in packages
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    searcher = _prepared(folder, place, config, for_page=mode in ("", "--serve"))
    if query is not None:
        _answer(searcher, query, as_json=as_json)
    elif interactive:
        _prompt(searcher, as_json=as_json)
    elif serve:
        _serve(searcher, named=not no_names)
    else:
        _write_page(searcher, page, named=not no_names, as_json=as_json)
        if not (no_open or as_json):
            _open(page)
    _say_skipped(searcher)
    return EXIT_SKIPPED if searcher.skipped else 0


def _mode(modes: dict[str, bool], of_page: dict[str, Any]) -> str:
    """Return which way of asking was given, and nothing else may be; empty: a page is written."""
    chosen = [name for name, given in modes.items() if given]
    if len(chosen) > 1:
        raise usage_error(f"{' and '.join(chosen)} are different ways to ask. Give one of them.")
    for name in (name for name, given in of_page.items() if given and chosen):
        raise usage_error(f"{name} is of the page, and {chosen[0]} writes none. Leave it out.")
    return "".join(chosen)


def _check_places(root: Path, places: dict[str, Path]) -> None:
    """Refuse to write into the folder; before a disk or home folder is read with its cache, ask."""
    inside = [flag for flag, place in places.items() if place.resolve().is_relative_to(root)]
    if Path.home().resolve().is_relative_to(root):
        click.confirm(
            f"{root} holds your home folder: every picture in it and below will be encoded, and "
            f"kept in {places['--store']}. Go on?", abort=True, err=True,
        )  # fmt: skip
    elif inside:
        raise usage_error(
            f"{places[inside[0]]} lies in {root}, which is read and never written to. Name another "
            f"place: {inside[0]}."
        )


def _prepared(root: Path, place: Path, config: SearchConfig, *, for_page: bool) -> Searcher:
    """Encode what is new, and say what there is."""
    with ProgressBar(f"search {root.name}", "items", doing="looking for pictures") as bar:
        from bench.search import MOST_PICTURES, prepare
        from featstore.cli.extract import show_progress

        progress, most = partial(show_progress, bar), MOST_PICTURES if for_page else None
        searcher = prepare(root, place, config, bar.stage, progress, most)
    found = count(len(searcher.pictures), "picture")
    found += f", {searcher.encoded:,} of them new" if searcher.encoded else ""
    say(f"{root}: {found}. Nothing leaves this machine.", err=True)
    return searcher


def _answer(searcher: Searcher, text: str, *, as_json: bool) -> None:
    """Print the best pictures for a text."""
    source = searcher.config.source
    near, [found] = searcher.ask(text, [searcher.source(source)], searcher.config.top)
    paths = [*searcher.pictures]
    answers = [(paths[row], score) for row, score in found]
    if as_json:
        pictures = [{"path": path, "score": round(score, 4)} for path, score in answers]
        facts = {"query": text, "by": source, "nearest_class": near["near"], "far": near["far"]}
        print_json(facts | {"pictures": pictures})
        return
    if near["far"]:
        say(f"No class of the head is near this. The closest: \"{near['near']}\" "
            f"({near['cosine']:.1f}). Expect little.", err=True)  # fmt: skip
    if not sys.stdout.isatty():
        lines = (f"{rank}\t{score:.4f}\t{path}" for rank, (path, score) in enumerate(answers, 1))
        click.echo("\n".join(lines))
        return
    screen = drawing_on(sys.stdout)
    for rank, (path, score) in enumerate(answers, 1):
        # A link as terminals open it (OSC 8).
        address = f"file://{socket.gethostname()}{quote(str(searcher.root / path))}"
        shown = encodable(visible(path), sys.stdout)
        screen.write(f"{rank:>4}  {score:6.3f}  \033]8;;{address}\033\\{shown}\033]8;;\033\\\n")
    screen.flush()
    if source == "head":
        say(f"By random vectors: {_again(searcher, text)} --source random", err=True)


def _again(searcher: Searcher, text: str) -> str:
    """Return a search of the same folder, in the same way, as a line to paste."""
    from data_manifests import cache_folder

    usual = vars(SearchConfig()) | {"store": cache_folder("search")}
    # The words of the command stay as they are: pictures that are listed, and who answers.
    given = vars(searcher.config) | {"store": searcher.store, "top": 10, "source": "head"}
    more = [f"--{k.replace('_', '-')}={v}" for k, v in given.items() if v != usual[k]]
    return shlex.join(["headstock", "search", str(searcher.root), text, *more])


def _prompt(searcher: Searcher, *, as_json: bool) -> None:
    """Answer texts, a line each, until an empty one or the end."""
    say("A text and Enter; an empty line ends. --source random asks a control.", err=True)
    click.echo("> ", nl=False, err=True)
    while line := sys.stdin.readline().strip():
        _answer(searcher, line, as_json=as_json)
        click.echo("> ", nl=False, err=True)


def _write_page(searcher: Searcher, out: Path, *, named: bool, as_json: bool) -> None:
    from bench.report.search import search_page
    from featstore.durable import write_output

    called = searcher.root.name or "pictures"
    with ProgressBar(f"search {called}", doing="laying out the page"):
        html, facts = search_page(searcher, called, named=named)
        data = html.encode()
        write_output(out, [data])
    if as_json:
        print_json({"out": str(out), "bytes": len(data)} | facts)
        return
    size = sum(path.lstat().st_size for path in searcher.store.rglob("*") if path.is_file())
    contains = f"{facts['pictures']:,} pictures{' and their names' if named else ''}"
    say(f"{out}: {human_bytes(len(data))}, one offline file. It contains {contains}.")
    if len(searcher.files) < searcher.found:
        say(f"They are the last changed of {searcher.found:,}; a query searches all.")
    if facts["shares"]:
        head, random, shuffled = facts["shares"].values()
        say(f"Of {head['of']:,} file names that are words, {head['percent']} ({head['interval']}) "
            f"find their picture in the first 8; by random vectors {random['percent']}, by "
            f"shuffled names {shuffled['percent']}, by chance {100 * facts['chance']:.1f} %."
        )  # fmt: skip
    say(f"Store: {searcher.store}, {human_bytes(size)} for all folders and the words.")
    say(f"Next:  {_again(searcher, 'a red car')}   # or --serve: any text in the browser")


def _open(page: Path) -> None:
    """Open the page where there is a desktop, and somebody at it."""
    displays = {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if sys.stdout.isatty() and (displays or sys.platform in ("darwin", "win32")):
        webbrowser.open(page.resolve().as_uri())


def _serve(searcher: Searcher, *, named: bool) -> None:
    """Serve the page until Ctrl-C."""
    from bench.report.search import Server

    with ProgressBar(f"search {searcher.root.name}", doing="laying out the page"):
        running = Server(searcher, named=named)
    with running, suppress(KeyboardInterrupt):
        say("The page with any text, for this machine alone. Ctrl-C ends.", err=True)
        # At once, also into a pipe: somebody waits for it.
        print(f"http://127.0.0.1:{running.server_port}/?key={running.key}", flush=True)
        running.serve_forever()
    say("Stopped. No text was kept.", err=True)


def _say_skipped(searcher: Searcher) -> None:
    """Say on stderr what was not searched, by reason."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, reason in sorted(searcher.skipped.items()):
        # Without the file's name before, and what another command could do about it behind; reasons
        # that differ in numbers alone are one.
        said = re.sub(r"\.?( \([^)]*\))?\.?$", "", reason.rpartition(": ")[2])
        groups.setdefault(re.sub(r"\d[\d,]*", "", said), []).append((path, said))
    for own in sorted(groups.values(), key=len, reverse=True)[:12]:
        path, said = own[0]
        say(f"skipped {len(own):,}: {said} ({path}{', …' if len(own) > 1 else ''})", err=True)
