"""``featstore ls``, ``show`` and ``rm``: the sets of a store."""

from __future__ import annotations

from pathlib import Path

import click

from featstore.command_line import print_json
from featstore.store.remove import remove_set
from featstore.store.store import open_store


@click.command("ls", epilog="Example: featstore ls build/demo/store")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(store: Path, as_json: bool) -> None:
    """List the sets of STORE."""
    opened = open_store(store)
    sets = opened.sets()
    if as_json:
        print_json([info.as_dict() for info in sets])
        return
    width = max((len(str(info.key)) for info in sets), default=0)
    for info in sets:
        failed = f"  {info.n_failed:,} failed" if info.n_failed else ""
        shape = f"{info.commit.n:>9,} × {info.commit.dim:<5,} {info.commit.dtype}"
        click.echo(f"{info.key!s:<{width}}  {shape}{failed}")
    for key in opened.unfinished():
        click.echo(f"{key!s:<{width}}  not finished: run `featstore extract` again")


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
    target = next((name for name in names if name == key.strip("/")), None)
    target = target or str(opened.info(key).key)
    if not (yes or as_json):
        click.confirm(f"Remove {target} from {store}?", abort=True, err=True)
    freed = remove_set(store, target)
    if as_json:
        print_json({"removed": target, "bytes": freed})
    else:
        click.echo(f"removed {target} ({freed:,} bytes)")
