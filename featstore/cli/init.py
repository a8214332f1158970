"""``featstore init``: make a store, or open one to a group."""

from __future__ import annotations

from pathlib import Path

import click

from featstore.store.sharing import make_store


@click.command("init", epilog="Example: featstore init /data/features --shared")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--shared", is_flag=True, help="Let the folder's group write to it.")
def init_command(store: Path, shared: bool) -> None:
    """Make an empty store in the folder STORE; `featstore extract` makes one by itself.

    With --shared, also of a store that exists: its folders become group-writable and hand that
    down, its files readable by all and writable by nobody. Use `chgrp` before to choose the group.
    """
    fresh = make_store(store, shared=shared)
    what = "is a new store" if fresh else "is a store"
    click.echo(f"{store} {what}{', shared with its group' if shared else ''}")
