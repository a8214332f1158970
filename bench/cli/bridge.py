"""`headstock bridge`, and `headstock store derive`, which applies what it saves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bench.options import BridgeConfig
from featstore.cli.options import KEY, open_at, seeds_option, set_named, the_store
from featstore.command_line import (
    EXIT_GATE,
    SectionedCommand,
    StorePlace,
    StoreType,
    json_option,
    print_json,
    store_option,
    usage_error,
)
from featstore.options import options_from
from featstore.terminal import ProgressBar, TextTable, print_facts

if TYPE_CHECKING:
    from bench.bridge import Bridge
    from featstore.store.view import Selection


@click.command(
    "bridge",
    cls=SectionedCommand,
    sections={"Options": "--store --out --page --gate --label --join"},
    epilog="\b\nExample:"
    "\n  headstock bridge docs/image/v1 docs/image/v2 --store store"
    "\n  headstock bridge old.parquet new.parquet --gate 0.95 -o v1-v2.safetensors",
)
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@store_option(
    "Read sets from this store, a folder or an address [default: the only one here].",
    required=False,
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Save the adapter of all pairs, a safetensors file.",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write one HTML page with the verdict, the curve and the controls; it needs no network.",
)
@options_from(BridgeConfig)
@click.option(
    "--join",
    type=click.Choice(["id", "position"]),
    metavar="NAME",
    default="id",
    show_default=True,
    help="Join rows by the ids of their items, or by their position.",
)
@click.option(
    "--array",
    metavar="NAME",
    help="Read this column, tensor or dataset of a file [default: embedding, or the only matrix].",
)
@seeds_option("Draw pairs and held-out items once for each of these seeds.", "0-9")
@json_option
def bridge_command(
    *,
    old: str,
    new: str,
    store: StorePlace | None,
    out: Path | None,
    page: Path | None,
    join: Literal["id", "position"],
    array: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Replace an encoder: map old vectors to new.

    OLD and NEW are sets of a store, or files of vectors of the same items: .npy, .safetensors,
    .parquet, .h5, .lance or a flat .faiss index. Printed is whether both are of one space, and what
    a search among items that the map has not seen keeps of the ten nearest, beside maps that know
    nothing. The exit code is 5 if --gate is missed.
    """
    from bench.bridge import bridge

    one, two = (_opened(place, store, array) for place in (old, new))
    apart = join == "position"
    found = bridge(one.numpy() if apart else one, two.numpy() if apart else two, **given)
    if out is not None:
        found.adapter.save(out)
    if as_json:
        print_json({"sentence": found.sentence, "passes": found.passes, **found.adapter.facts})
    else:
        _show(found, out)
    if page is not None:
        from bench.report.bridge import write_bridge

        click.echo(f"Page: {write_bridge(found, page)}", err=as_json)
    return 0 if found.passes else EXIT_GATE


@click.command(
    "derive",
    epilog="\b\nExample:"
    "\n  headstock store derive build/demo/store stamps/caption"
    "\n  headstock store derive store docs/image/v1 --by v1-v2.safetensors",
)
@click.argument("store", type=StoreType(writes=True))
@click.argument("key", metavar="KEY", type=KEY)
@click.option(
    "--by",
    metavar="HOW",
    default="int8",
    show_default=True,
    help="Derive by an adapter file, or int8, binary, float16, svd:N, truncate:N.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="Call the encoder of the new set this [default: ENCODER+HOW].",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Save the map of svd:N, an adapter for other sets.",
)
@json_option
def derive_command(
    *, store: Path, key: str, by: str, name: str | None, out: Path | None, as_json: bool
) -> None:
    """Write a set derived from another.

    Its rows take fewer bytes or columns, or are mapped by an adapter of `headstock bridge -o`. Its
    space says what it was made from and how, so that it is never taken for an encoder's own; its
    record states which share of the ten nearest is kept. int8 rows have their scale in the column
    int8_scale of the items, binary ones are 1 and -1.
    """
    from bench.derive import derive

    with ProgressBar(f"derive {key}", doing="reading rows"):
        made = derive(store, key, by, name=name)
    if out is not None:
        if made.adapter is None:
            raise usage_error(f"--out saves a map, and {by} has none: leave it out.")
        made.adapter.save(out)
    if as_json:
        own = {"key": made.key, "recall_at_10": made.kept}
        print_json({**own, "queries": made.n_queries, "gallery": made.gallery})
    else:
        click.echo(made.sentence)


def _opened(place: str, store: StorePlace | None, array: str | None) -> Selection:
    """Return the rows of a file, or of a set of the store."""
    from featstore.interop.reading import SUFFIXES, view_of

    path = Path(place)
    # The name of a set may have a dot, of a model or a version, and be that of a folder, too.
    if path.suffix in SUFFIXES or (store is None and path.is_dir()):
        return view_of(path, array=array)
    opened = open_at(the_store(store))
    return opened.view(str(set_named(opened, place).key))


def _show(found: Bridge, out: Path | None) -> None:
    click.echo(f"{found.sentence}\n")
    TextTable(("MAP", "SEARCH", "NEAREST KEPT", "10 NEAREST KEPT"), found.table).show()
    click.echo()
    print_facts({"Measured": found.facts})
    if out is not None:
        click.echo(f"\nWrote {out}. These lines of NumPy map rows `old` to `new` by it:\n")
        click.echo(found.adapter.lines(out))
    else:
        click.echo("\nSave the adapter with -o FILE, which NumPy alone can apply.")
