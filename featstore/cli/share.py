"""Commands that share a store: push, pull, card, cache, import; and the export of a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import featstore
from featstore.cli.options import KINDS, set_named
from featstore.command_line import (
    EXIT_ERROR,
    EXIT_SKIPPED,
    StorePlace,
    StoreType,
    answer,
    check_signed_options,
    count,
    json_option,
    signed_options,
    store_option,
    usage_error,
)
from featstore.options import option, options_from
from featstore.store import DTYPE_CODES
from featstore.terminal import ProgressBar, TextTable, bad, human_bytes, say, show_failures

if TYPE_CHECKING:
    from featstore.share import CopyReport, Relation


_LICENCE = click.option(
    "--licence",
    "--license",
    "licences",
    multiple=True,
    metavar="NAME=TEXT",
    help="State the licence of a dataset's items on the card; repeatable.",
)


def _licences(texts: Sequence[str]) -> dict[str, str]:
    """Return dataset -> licence as the option --licence states them."""
    stated = dict(text.partition("=")[::2] for text in texts)
    if not all(stated.values()):
        raise click.UsageError("--licence is NAME=TEXT, such as birds=CC-BY-4.0.")
    return stated


@click.command("card", epilog="Example: headstock store card build/demo/store -o build/demo/store")
@click.argument("store", type=StoreType())
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write README.md to this folder, which may be the store.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="Give the collection this name [default: the last part of the address].",
)
@_LICENCE
@json_option
def card_command(
    store: StorePlace,
    out: Path | None,
    name: str | None,
    licences: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write or print a dataset card of a store.

    It has datasets, licences, encoders, numbers of items and revisions; of STORE@TAG as they were
    then.
    """
    from featstore.share.card import markdown, set_cards, write_about

    stated = _licences(licences)
    with ProgressBar(f"card of {store}"):
        opened = featstore.open_store(store)
        title = name or opened.address.rstrip("/").rsplit("/", 1)[-1]
        cards = set_cards(opened, stated)
    card = markdown(title, cards)
    sets = [{"licence": card.licence, **card.info.as_dict()} for card in cards]
    said = card.rstrip("\n")
    if out is not None:
        write_about(out, card)
        said = f"Wrote README.md of {count(len(cards), 'set')} to {out}"
    answer({"name": title, "sets": sets}, said, as_json=as_json)


_SELECT = click.option(
    "--select",
    multiple=True,
    metavar="PATTERN",
    help="Copy only sets whose key matches this pattern, such as 'stamps/image/*'; repeatable.",
)

#: What became of a set, by how the target stood to it: where sets are sent, and received.
_SENT: dict[Relation, str] = {
    "new": "sent", "behind": "updated", "same": "unchanged", "newer": "newer there"
}  # fmt: skip
_RECEIVED: dict[Relation, str] = {**_SENT, "new": "received", "newer": "newer here"}


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    return _SELECT(json_option(function))


@click.command("push", epilog="Example: headstock store push build/demo/store s3://team/features")
@click.argument("source", type=StoreType())
@click.argument("target", type=StoreType())
@click.option(
    "--both", is_flag=True,
    help="Copy in both directions; each then has the newest revision of every set.",
)  # fmt: skip
@_LICENCE
@_options
def push_command(
    source: StorePlace,
    target: StorePlace,
    both: bool,
    licences: tuple[str, ...],
    select: tuple[str, ...],
    as_json: bool,
) -> int:
    """Upload sets to another store.

    Sent is what TARGET lacks of the sets of SOURCE, whole shards, each verified before; an
    interrupted push goes on where it stopped. A set is published last and at once. If another
    revision was published first, the error names it, and the other sets are copied all the same.

    A dataset of the hub, hf://datasets/OWNER/NAME, must exist. It gets one commit, which holds a
    card too; --licence is for that card.
    """
    stated = {"licences": _licences(licences)}
    ways = [(source, target), *([(target, source)] if both else [])]
    return _copy(ways, _SENT, select, as_json=as_json, **stated)


@click.command("pull", epilog="Example: headstock store pull s3://team/features build/demo/store")
@click.argument("source", type=StoreType())
@click.argument("target", type=StoreType(), required=False)
@click.option(
    "--cache-only", is_flag=True, help="Fetch into the user's cache, for offline use; no TARGET."
)
@signed_options
@_options
def pull_command(
    source: StorePlace,
    target: StorePlace | None,
    cache_only: bool,
    key: str | None,
    at_least: int,
    select: tuple[str, ...],
    as_json: bool,
) -> int:
    """Download sets from another store.

    TARGET receives what it lacks of the sets of SOURCE; see `headstock store push --help`. What
    --cache-only fetched can be read without a network: with HEADSTOCK_OFFLINE=1 no server is asked.
    """
    check_signed_options(key, at_least)
    signed: dict[str, Any] = {"key": key, "at_least": at_least}
    if cache_only is (target is not None):
        raise usage_error("Give the TARGET to copy to, or --cache-only.")
    if target is None:
        return _fetch(source, select, as_json=as_json, **signed)
    return _copy([(source, target)], _RECEIVED, select, as_json=as_json, **signed)


def _fetch(source: StorePlace, select: Sequence[str], *, as_json: bool, **signed: Any) -> int:
    """Fetch sets of a remote store into the cache."""
    from featstore.address import parse_address
    from featstore.share import fits

    if isinstance(parse_address(source), Path):
        raise usage_error(f"{source} lies on this machine already.")
    opened = featstore.open_store(source, **signed)
    cached, lines = [], []
    for key in [str(key) for key, _ in opened.listing() if fits(str(key), select)]:
        with ProgressBar(key, "bytes") as bar:
            opened.prefetch(key, progress=bar.advance)
        info = opened.info(key)
        size = opened.stored_bytes(info)
        cached.append({"key": key, "revision_id": info.commit.revision_id, "bytes": size})
        lines.append(f"{key}: {human_bytes(size)} in the cache")
    answer(cached, *lines, as_json=as_json)
    return 0


def _copy(
    ways: list[tuple[StorePlace, StorePlace]],
    words: dict[Relation, str],
    select: tuple[str, ...],
    *,
    as_json: bool,
    **more: Any,
) -> int:
    from featstore.share import copy_sets

    def send(source: StorePlace, target: StorePlace) -> CopyReport:
        with ProgressBar(f"to {target}", "bytes") as bar:
            return copy_sets(source, target, select=select, progress=bar.advance, **more)

    reports: list[CopyReport] = []
    parts: list[Any] = []
    for source, target in ways:
        report = send(source, target)
        reports.append(report)
        changed = [(key, words[how]) for key, how in report.sets.items() if how != "same"]
        counts = Counter(report.sets.values())
        done = [f"{counts[how]:,} {word}" for how, word in words.items() if counts[how]]
        total = count(len(report.sets), "set")
        line = f"{source} to {target}: {total}{', ' if done else ''}{', '.join(done)}"
        stays = [f"This state stays at {report.address}"] if report.address else []
        parts += [*([TextTable((), changed)] if changed else []), line, *stays]
    if len(ways) > 1:
        # A tag whose writing was stopped in the first store is complete by the way back.
        for way, report in zip(ways, reports, strict=True):
            if report.failed:
                report.failed = send(*way).failed
    document = [
        {"from": str(source), "to": str(target), "sets": report.sets, "failed": report.failed,
         **({"address": report.address} if report.address else {})}
        for (source, target), report in zip(ways, reports, strict=True)
    ]  # fmt: skip
    answer(document, *parts, as_json=as_json)
    for key, why in [] if as_json else [pair for one in reports for pair in one.failed.items()]:
        say(f"{key}  ", bad("not copied:"), f" {why}", err=True)
    return EXIT_ERROR if any(report.failed for report in reports) else 0


def _bytes(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Return the bytes of a size such as ``500MB`` or ``64GiB``."""
    from featstore.remote.cache import size_of

    try:
        return None if text is None else size_of(text)
    except ValueError as err:
        raise click.BadParameter(str(err), ctx, parameter) from err


@click.command(
    "cache",
    epilog="\b\nExample:\n  headstock cache\n  headstock cache --max-size 64GiB",
)
@click.option(
    "--max-size", metavar="SIZE", callback=_bytes,
    help="Delete the least recently used until the rest is below this; 0 deletes all.",
)  # fmt: skip
@json_option
def cache_command(max_size: int | None, as_json: bool) -> None:
    """Say what the cache of remote stores holds, or empty it.

    What is deleted can be fetched again; a process that reads it goes on.
    """
    from featstore.remote.cache import user_cache

    cache = user_cache()
    removed = [] if max_size is None else cache.trim(limit=max_size) if max_size else cache.forget()
    held = cache.shards()
    size, freed = (sum(entry.bytes for entry in entries) for entries in (held, removed))
    document = {
        "path": str(cache.root), "limit": cache.limit, "shards": len(held), "bytes": size,
        "removed": len(removed), "removed_bytes": freed,
    }  # fmt: skip
    gone = f"Removed {count(len(removed), 'shard')}, {human_bytes(freed)}"
    of = f"{human_bytes(size)} of {human_bytes(cache.limit)}"
    line = f"{cache.root} holds {count(len(held), 'shard')}, {of}"
    answer(document, *([] if max_size is None else [gone]), line, as_json=as_json)


def export_rows(place: StorePlace, key: str, out: Path, form: str, *, as_json: bool) -> None:
    """Export a set as npy, Parquet, safetensors or HDF5."""
    from featstore.interop import FORMATS, WIDENING, export_set

    if form not in FORMATS:
        raise usage_error(f"A set is written as {', '.join(FORMATS)}: give one as --format.")
    opened = featstore.open_store(place)
    info = set_named(opened, key)
    with ProgressBar(f"export {info.key}"):
        export_set(opened, str(info.key), out, form=form, revision=info.commit.revision_id)
    rows = info.commit.n - info.n_failed
    widened = form in WIDENING and info.commit.dtype == "bfloat16"
    dtype = "float32" if widened else info.commit.dtype
    document = {
        "key": str(info.key), "revision_id": info.commit.revision_id, "out": str(out),
        "format": form, "rows": rows, "failed": info.n_failed, "dtype": dtype,
    }  # fmt: skip
    failed = f" ({info.n_failed:,} failed items left out)" if info.n_failed else ""
    wide = (
        f"{form} has no bfloat16: the same values, as float32. Import them with --dtype bfloat16."
    )
    done = f"Wrote {count(rows, 'row')} of {info.key} to {out}{failed}"
    answer(document, done, *([wide] if widened else []), as_json=as_json)


@dataclass(frozen=True)
class ImportConfig:
    """What imported rows are; see `featstore.interop.import_rows`."""

    dataset: str = option(help="Store the rows as embeddings of the dataset with this name.")
    kind: str = option(
        help="Store the rows as embeddings of items of this kind.",
        choices=KINDS,
    )
    encoder: str = option(help="Name the encoder that made the rows.", metavar="FAMILY:NAME")
    items: Path | None = option(
        None,
        help="Read item_id and further columns from this CSV or Parquet file, one line per "
        "row of SOURCE. It is needed if SOURCE has no ids.",
        metavar="FILE",
    )
    array: str | None = option(
        None, help="Read this dataset, tensor or column of SOURCE, if it has several."
    )
    dtype: str | None = option(
        None,
        help="Store the rows in this dtype [default: that of the file, which keeps every bit].",
        flag="--dtype",
        choices=tuple(DTYPE_CODES),
    )


@click.command(
    "import",
    epilog="Example: headstock import feats.npy --items items.csv --store store --dataset "
    "birds "
    "--kind image --encoder their:vit",
)
@click.argument("source", type=click.Path(path_type=Path))
@store_option("Write to the store in this folder, which is made if it is missing.", writes=True)
@options_from(ImportConfig)
@json_option
def import_command(source: Path, store: Path, as_json: bool, **given: Any) -> int:
    """Import rows that another tool computed.

    They become a set whose provenance is `imported`. SOURCE is what `headstock export`
    writes, clip-retrieval's folder, or a plain .npy or .h5 file or Zarr array with --items. Items
    whose row is all zeros are skipped and listed; the exit code is then 3.
    """
    from featstore.interop import import_rows

    with ProgressBar(f"import {source}"):
        key = import_rows(source, store=store, **given)
    failures = dict(featstore.open_store(store).failures(key).iter_rows())
    show_failures(failures)
    answer({"key": key, "failed": len(failures)}, f"Imported {key}", as_json=as_json)
    return EXIT_SKIPPED if failures else 0
