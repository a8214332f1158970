"""``featstore ls``, ``show`` and ``rm``: the sets of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featstore.command_line import print_json
from featstore.errors import CorruptStoreError
from featstore.store.remove import remove_set
from featstore.store.store import open_store


@click.command("ls", epilog="Example: featstore ls build/demo/store")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(store: Path, as_json: bool) -> None:
    """List the sets of STORE."""
    opened = open_store(store)
    listing = opened.listing()
    unfinished = [str(key) for key in opened.unfinished()]
    if as_json:
        rows: list[dict[str, Any]] = [
            {"key": str(key), "state": "damaged", "reason": str(info)}
            if isinstance(info, CorruptStoreError)
            else {**info.as_dict(), "state": "finished"}
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
        shape = f"{info.commit.n:>9,} × {info.commit.dim:<5,} {info.commit.dtype}"
        click.echo(f"{key!s:<{width}}  {shape}{failed}")
    for name in unfinished:
        click.echo(f"{name:<{width}}  not finished: run `featstore extract` again")


@click.command("show", epilog="Example: featstore show build/demo/store stamps/image/lite0")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show_command(store: Path, key: str, as_json: bool) -> None:
    """Show what a set is: identity, space, encoder facts, splits, failures."""
    opened = open_store(store)
    info = opened.info(key)
    view = opened.view(key)
    splits = view.items["split"].value_counts(sort=True).rows()
    document = {
        **info.as_dict(),
        "space": info.attributes["space"],
        "facts": info.attributes["facts"],
        "splits": {str(split): count for split, count in splits},
        "failures": dict(opened.failures(key).iter_rows()),
    }
    if as_json:
        print_json(document)
        return
    for name, value in document.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for inner, what in value.items():
                click.echo(f"  {inner}: {what}")
        else:
            click.echo(f"{name}: {value}")


@click.command("rm", epilog="Example: featstore rm build/demo/store stamps/image/lite0 --yes")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; implies --yes.")
def rm_command(store: Path, key: str, yes: bool, as_json: bool) -> None:
    """Remove a set, finished or not. Item tables that other sets use stay."""
    opened = open_store(store)
    names = [str(name) for name in opened.unfinished()]
    names += [str(name) for name, _ in opened.listing()]
    target = next((name for name in names if name == key.strip("/")), None)
    target = target or str(opened.info(key).key)
    if not (yes or as_json):
        click.confirm(f"Remove {target} from {store}?", abort=True, err=True)
    freed = remove_set(store, target)
    if as_json:
        print_json({"removed": target, "bytes": freed})
    else:
        click.echo(f"removed {target} ({freed:,} bytes)")
