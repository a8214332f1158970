"""``featstore init``: make a store, or open one to a group."""

from __future__ import annotations

import click

from featstore.command_line import StorePlace, StoreType, print_json
from featstore.objects.address import Address, parse_address
from featstore.share.copying import writable_objects
from featstore.share.to_bucket import make_bucket_store
from featstore.store.sharing import make_store


@click.command("init", epilog="Example: featstore init /data/features --shared")
@click.argument("store", type=StoreType())
@click.option("--shared", is_flag=True, help="Let the folder's group write to it.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def init_command(store: StorePlace, shared: bool, as_json: bool) -> None:
    """Make an empty store in the folder or bucket STORE; `extract` and `push` do that themselves.

    With --shared, also of a store that exists: its folders become group-writable and hand that
    down, its files readable by all and writable by nobody. Use `chgrp` before to choose the group.
    """
    place = parse_address(store)
    if isinstance(place, Address):
        if shared:
            msg = "--shared is for folders; a bucket's rights are the affair of its service."
            raise click.UsageError(msg, click.get_current_context())
        fresh = make_bucket_store(writable_objects(place))
    else:
        fresh = make_store(place, shared=shared)
    if as_json:
        print_json({"store": str(store), "new": fresh, "shared": shared})
        return
    what = "is a new store" if fresh else "is a store"
    click.echo(f"{store} {what}{', shared with its group' if shared else ''}")
