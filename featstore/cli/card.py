"""``featstore card``: what a store holds, for people and for catalogues."""

from __future__ import annotations

import json
from pathlib import Path

import click

from featstore.command_line import StorePlace, StoreType
from featstore.durable import write_durably
from featstore.share.card import croissant, markdown, set_cards
from featstore.store.opening import open_store


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
        msg = "--licence is DATASET=TEXT, such as birds=CC-BY-4.0."
        raise click.UsageError(msg, click.get_current_context())
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
