"""``featstore ls`` and ``rm``: the sets of a store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from featstore.cli.show import human_bytes
from featstore.command_line import StorePlace, StoreType, print_json
from featstore.errors import CorruptStoreError
from featstore.store.names import resolve_set
from featstore.store.opening import open_store
from featstore.store.remove import remove_set
from featstore.store.set_info import SetInfo


@click.command("ls", epilog="Example: featstore ls build/demo/store")
@click.argument("store", type=StoreType())
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(store: StorePlace, as_json: bool) -> None:
    """List the sets of STORE, a folder or an address."""
    opened = open_store(store)
    listing = opened.listing()
    unfinished = [str(key) for key in opened.unfinished()]
    if as_json:
        rows: list[dict[str, Any]] = [
            {"key": str(key), "state": "damaged", "reason": str(info)}
            if isinstance(info, CorruptStoreError)
            else {
                **info.as_dict(),
                "bytes": opened.stored_bytes(info),
                "revisions": n_revisions(info),
                "state": "finished",
            }
            for key, info in listing
        ]
        print_json([*rows, *({"key": key, "state": "unfinished"} for key in unfinished)])
        return
    width = max([len(str(key)) for key, _ in listing] + [len(key) for key in unfinished] + [0])
    for key, info in listing:
        if isinstance(info, CorruptStoreError):
            click.echo(f"{key!s:<{width}}  damaged: {info}")
            continue
        failed = f"  {info.n_failed:,} failed" if info.n_failed else ""
        shape = f"{info.commit.n:>9,} × {info.commit.dim:<5,} {info.commit.dtype:<8}"
        size = human_bytes(opened.stored_bytes(info))
        count = n_revisions(info)
        revisions = f"{count:,} revision{'s' if count > 1 else ''}"
        precision = info.attributes["precision"]
        click.echo(f"{key!s:<{width}}  {shape}  {precision:<8}  {size:>8}  {revisions}{failed}")
    for name in unfinished:
        click.echo(f"{name:<{width}}  not finished: run `featstore extract` again")


@click.command(
    "rm", epilog="Example: featstore rm build/demo/store stamps/class_name/all-MiniLM-L6-v2 --yes"
)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; implies --yes.")
def rm_command(store: Path, key: str, yes: bool, as_json: bool) -> None:
    """Remove the set KEY, finished or not; a short name will do.

    Item tables that other sets use stay.
    """
    open_store(store)
    target = resolve_set(store, key)
    if not (yes or as_json):
        try:
            click.confirm(f"Remove {target} from {store}?", abort=True, err=True)
        except click.Abort as err:
            if sys.stdin is not None and sys.stdin.isatty():
                raise
            click.echo(err=True)  # ends the line of the question
            msg = f"Nobody can be asked whether to remove {target}: say --yes."
            raise click.UsageError(msg) from err
    freed = remove_set(store, target)
    if as_json:
        print_json({"removed": target, "bytes": freed})
    else:
        click.echo(f"removed {target} ({freed:,} bytes)")


def n_revisions(info: SetInfo) -> int:
    """Return the number of published revisions of a set."""
    return 1 + len(info.attributes.get("history", []))
