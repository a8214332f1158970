"""``featstore cache`` and ``prefetch``: what of remote stores lies on this machine."""

from __future__ import annotations

import time

import click

from featstore.cli.byte_progress import byte_progress
from featstore.cli.show import human_bytes
from featstore.command_line import CommandGroup, StorePlace, StoreType, print_json
from featstore.store.opening import open_store
from featstore.store.remote.cache import CacheEntry, user_cache
from featstore.store.remote.store import RemoteStore


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
        msg = "--all leaves nothing for --max-bytes to keep. Give one or the other."
        raise click.UsageError(msg, click.get_current_context())
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
        msg = f"{store} lies on this machine already."
        raise click.UsageError(msg, click.get_current_context())
    cached = []
    for key in keys:
        with byte_progress(key) as progress:
            opened.prefetch(key, revision=revision, progress=progress)
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
