"""The command search: a folder's pictures, found by text."""

from __future__ import annotations

import base64
import difflib
import io
import os
import re
import shlex
import socket
import sys
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from featstore.cli.progress import ProgressBar
from featstore.command_line import (
    EXIT_SKIPPED,
    count,
    human_bytes,
    json_option,
    print_json,
    usage_error,
)
from featstore.terminal import drawing_on, encodable, say, visible

if TYPE_CHECKING:
    from bench.report.search import Page
    from bench.search import Answer, Searcher
    from featstore.extraction.progress import Progress

#: The sources that answer, as `bench.search.SOURCES`.
_SOURCES = ("head", "random", "shuffled")

#: Pixels of the side of a picture in a terminal, and bytes of a part of it, as kitty takes them.
_SIDE, _PART = 96, 4096


@click.command(
    "search",
    epilog="\b\nExample:"
    '\n  headstock search photos "a red car"'
    "\n  headstock search photos"
    "\n  headstock search photos --serve",
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("query", required=False)
@click.option(
    "--top", type=int, default=10, show_default=True, metavar="N",
    help="List at most N pictures for a text, up to 10,000.",
)  # fmt: skip
@click.option("-i", "--interactive", is_flag=True, help="Read texts from a prompt, one a line.")
@click.option(
    "--source", type=click.Choice(_SOURCES), default="head", show_default=True, metavar="NAME",
    help="Answer by the head, or by a control: random, shuffled.",
)  # fmt: skip
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
@json_option
def search_command(
    folder: Path,
    query: str | None,
    top: int,
    interactive: bool,
    source: str,
    out: Path | None,
    no_open: bool,
    no_names: bool,
    serve: bool,
    store: Path | None,
    as_json: bool,
) -> int:
    """Search the pictures below a folder by text; no picture has a label.

    The head of EfficientNet-lite0, made for 1,000 classes, says where texts lie among pictures.
    With QUERY the best ten are listed. Without it a page is written: one offline file that answers
    15,000 words, beside random vectors and shuffled names. The first run encodes all pictures,
    later ones what is new. Nothing leaves this machine, and the folder is never written to.
    Pictures that cannot be read are counted, and the exit code is then 3.
    """
    from data_manifests.cache import cache_folder

    if not 1 <= top <= 10_000:
        raise usage_error(f"--top is a number from 1 to 10,000; got {top:,}.")
    modes = {"QUERY": query is not None, "-i": interactive, "--serve": serve}
    chosen = [name for name, given in modes.items() if given]
    if len(chosen) > 1:
        raise usage_error(f"{' and '.join(chosen)} are different ways to ask. Give one of them.")
    page_only = {"-o": out, "--no-open": no_open, "--no-names": no_names and not serve}
    for name in (name for name, given in page_only.items() if given and chosen):
        raise usage_error(f"{name} is of the page, and {chosen[0]} writes none. Leave it out.")
    root = _folder(folder)
    place = (cache_folder("search") if store is None else store).absolute()
    _keep_out(place, root, "--store")
    page = _page_place(out, root, place) if not chosen else None
    _ask_first(root)
    # What is written from here on is for the user's eyes alone; so is what other processes write.
    os.umask(0o077)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    searcher = _prepared(root, place)
    answer = partial(_answer, searcher, top=top, as_json=as_json)
    if query is not None:
        answer(query, source)
    elif interactive:
        _prompt(answer, source)
    elif serve:
        _serve(searcher, _called(folder), named=not no_names)
    elif page is not None:
        _write_page(searcher, page, _called(folder), named=not no_names, as_json=as_json)
        if not (no_open or as_json):
            _open(page)
    _say_skipped(searcher)
    return EXIT_SKIPPED if searcher.listing.skipped else 0


def _folder(given: Path) -> Path:
    """Return the folder that was typed; name one that is called alike where it is none."""
    root = given.expanduser()
    if root.is_dir():
        return root.resolve()
    names: list[str] = []
    with suppress(OSError):
        names = [path.name for path in root.absolute().parent.iterdir() if path.is_dir()]
    close = difflib.get_close_matches(root.name, names, 1)
    hint = f" Did you mean {given.parent / close[0]}?" if close else ""
    raise usage_error(f"{given} is no folder.{hint}")


def _called(folder: Path) -> str:
    """Return what a folder is called on a page: its own name, and never where it lies."""
    return folder.expanduser().resolve().name or "pictures"


def _page_place(out: Path | None, root: Path, store: Path) -> Path:
    """Return where the page goes: beside nothing of the folder."""
    from bench.search import default_dataset

    page = Path("search.html" if out is None else out)
    if out is None and page.resolve().is_relative_to(root):
        return store / "search" / f"{default_dataset(root)}.html"
    _keep_out(page, root, "-o")
    return page


def _keep_out(place: Path, root: Path, flag: str) -> None:
    if place.resolve().is_relative_to(root):
        raise usage_error(
            f"{place} lies in {root}, which is read and never written to. Name another place: "
            f"{flag}."
        )


def _ask_first(root: Path) -> None:
    """Ask before a whole disk or home folder is read."""
    home = Path.home().resolve()
    if home.is_relative_to(root):
        what = "your home folder" if root == home else "more than your home folder"
        click.confirm(
            f"{root} is {what}: every picture in it and below will be encoded. Go on?",
            abort=True, err=True,
        )  # fmt: skip


def _prepared(root: Path, place: Path) -> Searcher:
    """Encode what is new, and say what there is."""
    with ProgressBar(f"search {root.name}", "items", doing="looking for pictures") as bar:
        from bench.search import prepare

        def show(stage: str, done: Progress | None) -> None:
            bar.stage(stage)
            if done is not None:
                bar.update(done.rows_done, done.rows_total, left=done.eta_seconds, note=stage)

        searcher = prepare(root, place, show)
    n = len(searcher.paths)
    new = f", {searcher.encoded:,} of them new" if searcher.encoded else ""
    say(f"{root}: {count(n, 'picture')}{new}. Nothing leaves this machine.", err=True)
    return searcher


def _answer(searcher: Searcher, text: str, source: str, *, top: int, as_json: bool) -> None:
    """Print the best pictures for a text."""
    from bench.search import FAR

    answers, near, cosine = searcher.ask(text, source, top)
    far = cosine < FAR
    if as_json:
        pictures = [{"path": one.path, "score": round(one.score, 4)} for one in answers]
        print_json({"query": text, "by": source, "nearest_class": near,
                    "far": far, "pictures": pictures})  # fmt: skip
        return
    if far:
        say(f'ImageNet has nothing near this. Closest class: "{near}" ({cosine:.1f}). '
            "Expect little.", err=True)  # fmt: skip
    if not sys.stdout.isatty():
        for rank, one in enumerate(answers, 1):
            click.echo(f"{rank}\t{one.score:.4f}\t{one.path}")
        return
    screen = drawing_on(sys.stdout)
    thumbnails = dict(zip(searcher.paths, searcher.thumbnails, strict=True))
    screen.write(_strip([thumbnails[one.path] for one in answers]))
    for rank, one in enumerate(answers, 1):
        screen.write(f"{rank:>4}  {one.score:6.3f}  {_link(searcher.listing.root, one)}\n")
    screen.flush()
    if source == "head":
        say(f"By random vectors: {_again(searcher, text)} --source random", err=True)


def _again(searcher: Searcher, text: str) -> str:
    """Return a search of the same folder as a line to paste."""
    return shlex.join(["headstock", "search", str(searcher.listing.root), text])


def _link(root: Path, answer: Answer) -> str:
    """Return a path as a link that terminals open (OSC 8)."""
    address = f"file://{socket.gethostname()}{quote(str(root / answer.path))}"
    shown = encodable(visible(answer.path), sys.stdout)
    return f"\033]8;;{address}\033\\{shown}\033]8;;\033\\"


def _strip(thumbnails: list[bytes]) -> str:
    """Return thumbnails side by side, as the terminal shows them; nothing where it shows none."""
    kitty = "KITTY_WINDOW_ID" in os.environ or os.environ.get("TERM") == "xterm-kitty"
    if not kitty and os.environ.get("TERM_PROGRAM") not in ("iTerm.app", "WezTerm"):
        return ""
    from PIL import Image

    whole = Image.new("RGB", (_SIDE * len(thumbnails), _SIDE), "white")
    for number, data in enumerate(thumbnails):
        if data:
            small = Image.open(io.BytesIO(data)).convert("RGB")
            small.thumbnail((_SIDE, _SIDE))
            whole.paste(small, (number * _SIDE, 0))
    buffer = io.BytesIO()
    whole.save(buffer, format="PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    if not kitty:
        return f"\033]1337;File=inline=1:{text}\a\n"
    parts = [text[at : at + _PART] for at in range(0, len(text), _PART)]
    more = [f"\033_Gm={int(n < len(parts) - 1)};{part}\033\\" for n, part in enumerate(parts)]
    return "".join([more[0].replace("_G", "_Ga=T,f=100,"), *more[1:]]) + "\n"


def _prompt(answer: Callable[[str, str], None], source: str) -> None:
    """Answer texts, a line each, until an empty one or the end; ``:random`` asks a control."""
    say(
        "A text and Enter; :random or :shuffled behind it asks a control. An empty line ends.",
        err=True,
    )
    while True:
        click.echo("> " if sys.stdin.isatty() else "", nl=False, err=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        text, colon, by = line.rpartition(":")
        asks = colon and text.strip() and by in _SOURCES
        answer(*((text.strip(), by) if asks else (line, source)))


def _write_page(searcher: Searcher, out: Path, folder: str, *, named: bool, as_json: bool) -> Page:
    from bench.report.search import search_page
    from featstore.store.files import write_file

    with ProgressBar(f"search {folder}", doing="laying out the page"):
        page = search_page(searcher, folder, named=named)
        data = page.html.encode()
        write_file(out, [data])
    shares = {name: vars(one) for name, one in page.shares.items()}
    n = len(page.rows)
    if as_json:
        print_json({"out": str(out), "bytes": len(data), "pictures": n, "words": page.words,
                    "shares": shares, "chance": page.chance})  # fmt: skip
        return page
    size = sum(path.lstat().st_size for path in searcher.store.rglob("*") if path.is_file())
    names = " and their names" if named else ""
    say(f"{out}: {human_bytes(len(data))}, one offline file. It contains {n:,} pictures{names}.")
    if n < len(searcher.paths):
        say(f"They are the last changed of {len(searcher.paths):,}; a query searches all.")
    if page.shares:
        head, random, shuffled = page.shares.values()
        say(f"Of {head.of:,} file names that are words, {head.percent} ({head.interval}) find "
            f"their picture in the first 8; by random vectors {random.percent}, by shuffled names "
            f"{shuffled.percent}, by chance {100 * page.chance:.1f} %.")  # fmt: skip
    say(f"Store: {searcher.store}, {human_bytes(size)} for all folders and the words.")
    say(f"Next:  {_again(searcher, 'a red car')}   # or --serve: any text in the browser")
    return page


def _open(page: Path) -> None:
    """Open the page where there is a desktop, and somebody at it."""
    desktop = sys.platform in ("darwin", "win32") or any(
        name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if desktop and sys.stdout.isatty():
        webbrowser.open(page.resolve().as_uri())


def _serve(searcher: Searcher, folder: str, *, named: bool) -> None:
    """Serve the page until Ctrl-C."""
    from bench.serving import Served, server

    with ProgressBar(f"search {folder}", doing="laying out the page"):
        served = Served(searcher, folder, named=named)
    with server(served) as running:
        port = running.server_port
        say("The page with any text, for this machine alone. Ctrl-C ends.", err=True)
        # At once, also into a pipe: somebody waits for it.
        print(f"http://127.0.0.1:{port}/?key={served.key}", flush=True)
        with suppress(KeyboardInterrupt):
            running.serve_forever()
    say(f"Stopped. {count(served.asked, 'text')} answered; none was kept.", err=True)


def _say_skipped(searcher: Searcher) -> None:
    """Say on stderr what was not searched, by reason."""
    reasons: dict[str, list[str]] = {}
    for path, reason in searcher.listing.skipped.items():
        # Without the file's name before, and what another command could do about it behind.
        short = re.sub(r"\.?( \([^)]*\))?\.?$", "", reason.rpartition(": ")[2])
        reasons.setdefault(short, []).append(path)
    for reason, paths in sorted(reasons.items(), key=lambda one: -len(one[1]))[:12]:
        more = ", …" if len(paths) > 1 else ""
        say(f"skipped {len(paths):,}: {reason} ({paths[0]}{more})", err=True)
