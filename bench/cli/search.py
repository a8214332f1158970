"""The command search: a folder's pictures, found by text."""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
import socket
import sys
import webbrowser
from collections import Counter
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
from featstore.errors import unknown_name
from featstore.terminal import drawing_on, encodable, say, visible

if TYPE_CHECKING:
    from bench.search import Searcher

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
    place = (store or cache_folder("search")).absolute()
    page = out or _page_of(root, place)
    _keep_out(root, {"--store": place} if chosen else {"--store": place, "-o": page})
    _ask_first(root)
    # What is written from here on is for the user's eyes alone; so is what other processes write.
    os.umask(0o077)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    searcher = _prepared(root, place)
    if query is not None:
        _answer(searcher, query, source, top=top, as_json=as_json)
    elif interactive:
        _prompt(partial(_answer, searcher, top=top, as_json=as_json), source)
    elif serve:
        _serve(searcher, named=not no_names)
    else:
        _write_page(searcher, page, named=not no_names, as_json=as_json)
        if not (no_open or as_json):
            _open(page)
    _say_skipped(searcher)
    return EXIT_SKIPPED if searcher.listing.skipped else 0


def _page_of(root: Path, store: Path) -> Path:
    """Return where the page goes if nothing is said: beside no picture."""
    if not Path.cwd().is_relative_to(root):
        return Path("search.html")
    from bench.search import default_dataset

    return store / "search" / f"{default_dataset(root)}.html"


def _folder(given: Path) -> Path:
    """Return the folder that was typed; name one that is called alike where it is none."""
    root = given.expanduser().absolute()
    if not root.is_dir():
        names = [path.name for path in root.parent.glob("*/")]
        raise usage_error(unknown_name("folder", root.name, names, where=f"in {root.parent}"))
    return root.resolve()


def _keep_out(root: Path, places: dict[str, Path]) -> None:
    """Refuse to write into the folder."""
    for flag, place in places.items():
        if place.resolve().is_relative_to(root):
            raise usage_error(
                f"{place} lies in {root}, which is read and never written to. Name another place: "
                f"{flag}."
            )


def _ask_first(root: Path) -> None:
    """Ask before a whole disk or home folder is read."""
    if Path.home().resolve().is_relative_to(root):
        click.confirm(
            f"{root} holds your home folder: every picture in it and below will be encoded. Go on?",
            abort=True, err=True,
        )  # fmt: skip


def _prepared(root: Path, place: Path) -> Searcher:
    """Encode what is new, and say what there is."""
    with ProgressBar(f"search {root.name}", "items", doing="looking for pictures") as bar:
        from bench.search import prepare
        from featstore.cli.extract import show_progress

        searcher = prepare(root, place, bar.stage, partial(show_progress, bar))
    new = f", {searcher.encoded:,} of them new" if searcher.encoded else ""
    n = count(len(searcher.paths), "picture")
    say(f"{root}: {n}{new}. Nothing leaves this machine.", err=True)
    return searcher


def _answer(searcher: Searcher, text: str, source: str, *, top: int, as_json: bool) -> None:
    """Print the best pictures for a text."""
    from bench.search import FAR

    near, cosine, [found] = searcher.ask(text, [searcher.source(source)], top)
    answers = [(searcher.paths[row], score) for row, score in found]
    if as_json:
        pictures = [{"path": path, "score": round(score, 4)} for path, score in answers]
        print_json({"query": text, "by": source, "nearest_class": near,
                    "far": cosine < FAR, "pictures": pictures})  # fmt: skip
        return
    if cosine < FAR:
        say(f'ImageNet has nothing near this. Closest class: "{near}" ({cosine:.1f}). '
            "Expect little.", err=True)  # fmt: skip
    if not sys.stdout.isatty():
        click.echo("\n".join(
            f"{rank}\t{score:.4f}\t{path}" for rank, (path, score) in enumerate(answers, 1)
        ))  # fmt: skip
        return
    screen = drawing_on(sys.stdout)
    screen.write(_strip([searcher.thumbnails[row] for row, _ in found]))
    for rank, (path, score) in enumerate(answers, 1):
        screen.write(f"{rank:>4}  {score:6.3f}  {_link(searcher.listing.root, path)}\n")
    screen.flush()
    if source == "head":
        say(f"By random vectors: {_again(searcher, text)} --source random", err=True)


def _again(searcher: Searcher, text: str) -> str:
    """Return a search of the same folder as a line to paste."""
    return shlex.join(["headstock", "search", str(searcher.listing.root), text])


def _link(root: Path, path: str) -> str:
    """Return a path as a link that terminals open (OSC 8)."""
    address = f"file://{socket.gethostname()}{quote(str(root / path))}"
    return f"\033]8;;{address}\033\\{encodable(visible(path), sys.stdout)}\033]8;;\033\\"


def _strip(thumbnails: list[bytes]) -> str:
    """Return thumbnails side by side, as the terminal shows them; nothing where it shows none."""
    kitty = "KITTY_WINDOW_ID" in os.environ or os.environ.get("TERM") == "xterm-kitty"
    if not kitty and os.environ.get("TERM_PROGRAM") not in ("iTerm.app", "WezTerm"):
        return ""
    from PIL import Image, ImageOps

    whole, buffer = Image.new("RGB", (_SIDE * len(thumbnails), _SIDE), "white"), io.BytesIO()
    for number, data in enumerate(thumbnails):
        if data:
            small = ImageOps.contain(Image.open(io.BytesIO(data)).convert("RGB"), (_SIDE, _SIDE))
            whole.paste(small, (number * _SIDE, 0))
    whole.save(buffer, format="PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    if not kitty:
        return f"\033]1337;File=inline=1:{text}\a\n"
    parts = [text[at : at + _PART] for at in range(0, len(text), _PART)]
    more = [f"\033_Gm={int(n < len(parts))};{part}\033\\" for n, part in enumerate(parts, 1)]
    return "".join([more[0].replace("_G", "_Ga=T,f=100,"), *more[1:]]) + "\n"


def _prompt(answer: Callable[[str, str], None], source: str) -> None:
    """Answer texts, a line each, until an empty one or the end; ``:random`` asks a control."""
    say(
        "A text and Enter; :random or :shuffled behind it asks a control. An empty line ends.",
        err=True,
    )
    click.echo("> ", nl=False, err=True)
    while line := sys.stdin.readline().strip():
        text, _, by = line.rpartition(":")
        answer(*((text.strip(), by) if text.strip() and by in _SOURCES else (line, source)))
        click.echo("> ", nl=False, err=True)


def _write_page(searcher: Searcher, out: Path, *, named: bool, as_json: bool) -> None:
    from bench.report.search import search_page
    from featstore.store.files import write_file

    called = searcher.listing.root.name or "pictures"
    with ProgressBar(f"search {called}", doing="laying out the page"):
        page = search_page(searcher, called, named=named)
        data = page.html.encode()
        write_file(out, [data])
    n = len(page.rows)
    if as_json:
        print_json({"out": str(out), "bytes": len(data), "pictures": n, "words": page.words,
                    "shares": page.shares, "chance": page.chance})  # fmt: skip
        return
    size = sum(path.lstat().st_size for path in searcher.store.rglob("*") if path.is_file())
    names = " and their names" if named else ""
    say(f"{out}: {human_bytes(len(data))}, one offline file. It contains {n:,} pictures{names}.")
    if n < len(searcher.paths):
        say(f"They are the last changed of {len(searcher.paths):,}; a query searches all.")
    if page.shares:
        head, random, shuffled = page.shares.values()
        say(f"Of {head['of']:,} file names that are words, {head['percent']} ({head['interval']}) "
            f"find their picture in the first 8; by random vectors {random['percent']}, by "
            f"shuffled names {shuffled['percent']}, by chance {100 * page.chance:.1f} %."
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
    from bench.serving import Server

    with ProgressBar(f"search {searcher.listing.root.name}", doing="laying out the page"):
        running = Server(searcher, named=named)
    with running, suppress(KeyboardInterrupt):
        say("The page with any text, for this machine alone. Ctrl-C ends.", err=True)
        # At once, also into a pipe: somebody waits for it.
        print(f"http://127.0.0.1:{running.server_port}/?key={running.key}", flush=True)
        running.serve_forever()
    say(f"Stopped. {count(running.asked, 'text')} answered; none was kept.", err=True)


def _say_skipped(searcher: Searcher) -> None:
    """Say on stderr what was not searched, by reason."""
    # Without the file's name before, and what another command could do about it behind.
    short = {
        path: re.sub(r"\.?( \([^)]*\))?\.?$", "", reason.rpartition(": ")[2])
        for path, reason in sorted(searcher.listing.skipped.items(), reverse=True)
    }
    first = {reason: path for path, reason in short.items()}
    for reason, n in Counter(short.values()).most_common(12):
        say(f"skipped {n:,}: {reason} ({first[reason]}{', …' if n > 1 else ''})", err=True)
