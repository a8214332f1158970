"""Commands that share a store: push, pull, sync, card, prefetch, cache."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from featstore.cli.progress import ProgressBar, human_bytes
from featstore.command_line import EXIT_ERROR, CommandGroup, StorePlace, StoreType, print_json
from featstore.durable import write_durably
from featstore.remote.cache import CacheEntry, user_cache
from featstore.remote.store import RemoteStore
from featstore.share.card import croissant, markdown, set_cards
from featstore.share.copy import CopyReport, copy_sets
from featstore.share.source import Relation
from featstore.store.store import open_store


@click.command("card", epilog="Example: featstore card build/demo/store -o build/demo/store")
@click.argument("store", type=StoreType())
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write README.md and croissant.json to this folder; the store's own will do.",
)
@click.option("--name", help="Name of the collection; the last part of the address by default.")
@click.option("--licence", "licences", multiple=True, metavar="DATASET=TEXT",
              help="Licence of a dataset's items; repeatable.")  # fmt: skip
@click.option("--revision", help="A tag of the store.")
@click.option("--json", "as_json", is_flag=True, help="Print the Croissant metadata.")
def card_command(
    store: StorePlace,
    out: Path | None,
    name: str | None,
    licences: tuple[str, ...],
    revision: str | None,
    as_json: bool,
) -> None:
    """Describe STORE: datasets, licences, encoders, numbers of items, revisions.

    Prints the card, or writes it and its Croissant metadata.
    """
    stated = dict(text.partition("=")[::2] for text in licences)
    if not all(stated.values()):
        raise click.UsageError(
            "--licence is DATASET=TEXT, such as birds=CC-BY-4.0.", click.get_current_context()
        )
    opened = open_store(store, revision=revision)
    title = name or opened.address.rstrip("/").rsplit("/", 1)[-1]
    cards = set_cards(opened, stated)
    metadata = croissant(title, cards, url=opened.address)
    text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
    if out is not None:
        write_durably(out / "README.md", [markdown(title, cards).encode()])
        write_durably(out / "croissant.json", [text.encode()])
    if as_json:
        click.echo(text, nl=False)
    elif out is not None:
        click.echo(f"{out}: README.md and croissant.json of {len(cards):,} sets")
    else:
        click.echo(markdown(title, cards), nl=False)


_SELECT = click.option(
    "--select",
    multiple=True,
    help="Only sets whose key fits this pattern, such as 'stamps/image/*'; repeatable.",
)
_TAKE_OVER = click.option(
    "--take-over", is_flag=True, help="Replace another's unfinished push that is known to be dead."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")

_DONE: dict[Relation, str] = {
    "new": "sent",
    "behind": "updated",
    "same": "unchanged",
    "newer": "newer there",
}


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (_JSON, _TAKE_OVER, _SELECT):
        function = option(function)
    return function


@click.command("push", epilog="Example: featstore push build/demo/store s3://team/features")
@click.argument("source", type=StoreType())
@click.argument("target", type=StoreType())
@_options
def push_command(
    source: StorePlace, target: StorePlace, select: tuple[str, ...], take_over: bool, as_json: bool
) -> int:
    """Copy the sets of SOURCE to TARGET: what is missing there, or has grown here.

    Only shards that TARGET lacks travel, each verified before; an interrupted push goes on where it
    stopped. A set is published last and at once. If somebody else published another revision first,
    that is an error that names it, and the other sets are copied all the same.
    """
    return _copy([(source, target)], select, take_over=take_over, as_json=as_json)


@click.command("pull", epilog="Example: featstore pull s3://team/features build/demo/store")
@click.argument("source", type=StoreType())
@click.argument("target", type=StoreType())
@_options
def pull_command(
    source: StorePlace, target: StorePlace, select: tuple[str, ...], take_over: bool, as_json: bool
) -> int:
    """Copy the sets of SOURCE to TARGET; the same as push, for who thinks of it from here."""
    return _copy([(source, target)], select, take_over=take_over, as_json=as_json)


@click.command("sync", epilog="Example: featstore sync build/demo/store s3://team/features")
@click.argument("one", type=StoreType())
@click.argument("other", type=StoreType())
@_options
def sync_command(
    one: StorePlace, other: StorePlace, select: tuple[str, ...], take_over: bool, as_json: bool
) -> int:
    """Copy in both directions, so that each store has the newest revision of every set."""
    return _copy([(one, other), (other, one)], select, take_over=take_over, as_json=as_json)


def _copy(
    ways: list[tuple[StorePlace, StorePlace]],
    select: tuple[str, ...],
    *,
    take_over: bool,
    as_json: bool,
) -> int:
    reports: list[CopyReport] = []
    for source, target in ways:
        with ProgressBar(f"to {target}", "bytes") as bar:
            report = copy_sets(
                source, target, select=select, take_over=take_over, progress=bar.advance
            )
        reports.append(report)
        if as_json:
            continue
        for key, how in report.sets.items():
            if how != "same":
                click.echo(f"{key}  {_DONE[how]}")
        counts = Counter(report.sets.values())
        said = [f"{counts[how]:,} {done}" for how, done in _DONE.items() if counts[how]]
        click.echo(f"{source} to {target}: {', '.join(said) or 'nothing'}")
        for key, why in report.failed.items():
            click.echo(f"{key}  not copied: {why}", err=True)
    if as_json:
        print_json(
            [
                {"from": str(source), "to": str(target), "sets": report.sets,
                 "failed": report.failed}
                for (source, target), report in zip(ways, reports, strict=True)
            ]
        )  # fmt: skip
    return EXIT_ERROR if any(report.failed for report in reports) else 0


@click.group("cache", cls=CommandGroup, epilog="Example: featstore cache ls")
def cache_group() -> None:
    """Show or empty the cache of remote stores."""


@cache_group.command("ls", epilog="Example: featstore cache ls")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(as_json: bool) -> None:
    """List the shards and the stores' small files that are kept, the last used first."""
    cache = user_cache()
    _tell([*cache.stores(), *cache.shards()], "kept", as_json=as_json)


@cache_group.command("gc", epilog="Example: featstore cache gc --max-bytes 1000000000")
@click.option("--max-bytes", type=click.IntRange(min=0), help="Keep the last used up to so much.")
@click.option("--all", "everything", is_flag=True, help="Remove everything, small files too.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def gc_command(max_bytes: int | None, everything: bool, as_json: bool) -> None:
    """Remove the shards that were not used for longest, down to the limit.

    The limit is $HEADSTOCK_CACHE_BYTES, or 64 GiB. What is removed can be fetched again; a process
    that reads it goes on.
    """
    if everything and max_bytes is not None:
        raise click.UsageError(
            "--all leaves nothing for --max-bytes to keep. Give one or the other.",
            click.get_current_context(),
        )
    cache = user_cache()
    _tell(cache.forget() if everything else cache.trim(limit=max_bytes), "removed", as_json=as_json)


@click.command(
    "prefetch",
    epilog="Example: featstore prefetch s3://team/features stamps/image/tf_efficientnet_lite0",
)
@click.argument("store", type=StoreType())
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@click.option("--revision", help="A revision_id of the set, or its beginning; default: current.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def prefetch_command(
    store: StorePlace, keys: tuple[str, ...], revision: str | None, as_json: bool
) -> None:
    """Fetch whole sets of a remote STORE, so that they can be read without a network.

    HEADSTOCK_OFFLINE=1 makes sure that nothing else is asked for afterwards.
    """
    opened = open_store(store)
    if not isinstance(opened, RemoteStore):
        raise click.UsageError(
            f"{store} lies on this machine already.", click.get_current_context()
        )
    cached = []
    for key in keys:
        with ProgressBar(key, "bytes") as bar:
            opened.prefetch(key, revision=revision, progress=bar.advance)
        info = opened.info(key, revision=revision)
        size = opened.stored_bytes(info)
        cached.append({"key": str(info.key), "revision_id": info.commit.revision_id, "bytes": size})
        if not as_json:
            click.echo(f"{info.key}  {human_bytes(size)} in the cache")
    if as_json:
        print_json(cached)


def _tell(entries: list[CacheEntry], verb: str, *, as_json: bool) -> None:
    total = sum(entry.bytes for entry in entries)
    if as_json:
        rows = [{"path": str(entry.path), "what": entry.what, "bytes": entry.bytes,
                 "used": entry.used} for entry in entries]  # fmt: skip
        print_json({verb: rows, "bytes": total})
        return
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        name = entry.path.name[:12] if entry.what == "shard" else ""
        click.echo(f"{used}  {human_bytes(entry.bytes):>8}  {entry.what} {name}".rstrip())
    click.echo(f"{len(entries):,} {verb}, {human_bytes(total)}")
