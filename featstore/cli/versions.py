"""``featstore tag`` and ``diff``: names for the revisions of a store, and what differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from featstore.command_line import StorePlace, StoreType, print_json
from featstore.share.comparing import SetDifference, compare_stores
from featstore.share.tagging import make_tag
from featstore.store.opening import open_store


@click.command("tag", epilog="Example: featstore tag build/demo/store v1")
@click.argument("store", type=StoreType())
@click.argument("name")
@click.option(
    "--select",
    multiple=True,
    help="Only sets whose key fits this pattern, such as 'stamps/image/*'; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def tag_command(store: StorePlace, name: str, select: tuple[str, ...], as_json: bool) -> None:
    """Give the current revision of every set of STORE the NAME, for open_store(…, revision=NAME).

    A tag never changes. `featstore push` takes the tags of a folder along.
    """
    revisions = make_tag(store, name, select=select)
    if as_json:
        print_json({"tag": name, "sets": revisions})
    else:
        click.echo(f"{store} at {name}: {len(revisions):,} sets")


@click.command("diff", epilog="Example: featstore diff build/demo/store s3://team/features")
@click.argument("a", type=StoreType())
@click.argument("b", type=StoreType())
@click.option("--revision-a", help="A tag or revision_id of A.")
@click.option("--revision-b", help="A tag or revision_id of B.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def diff_command(
    a: StorePlace, b: StorePlace, revision_a: str | None, revision_b: str | None, as_json: bool
) -> int:
    """Say in which sets stores A and B differ: items, rows, failures, what they say of themselves.

    Rows are compared by the hashes of their blocks; none is read. Exits 0 either way. For two
    revisions of one store, give it twice.
    """
    found = compare_stores(open_store(a, revision=revision_a), open_store(b, revision=revision_b))
    if as_json:
        print_json([asdict(difference) for difference in found])
        return 0
    for difference in found:
        click.echo(f"{difference.key}  {'; '.join(_said(difference))}")
    click.echo(f"{len(found):,} sets differ")
    return 0


def _said(difference: SetDifference) -> Iterator[str]:
    if difference.state != "differs":
        yield difference.state
        return
    yield " → ".join(revision[:12] for revision in difference.revisions)
    for count, what in (
        (difference.added, "items added"),
        (difference.removed, "items removed"),
        (difference.changed_items, "items with other facts"),
    ):
        if count:
            yield f"{count:,} {what}"
    if difference.changed_blocks is None:
        yield "rows of another shape"
    elif difference.changed_blocks:
        yield f"{difference.changed_blocks:,} blocks of rows differ"
    if difference.failed[0] != difference.failed[1]:
        yield f"{difference.failed[0]:,} → {difference.failed[1]:,} failed"
    if difference.attributes:
        yield f"other {', '.join(difference.attributes)}"
