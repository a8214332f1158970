"""Commands on vectors: `headstock bridge`, and `headstock store derive` that applies what it saves.

`headstock show` prints here of a file of vectors, and of a set whose items it encodes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import featstore
from bench.options import BridgeConfig
from featstore.cli.options import KEY, seeds_option, set_named, the_store
from featstore.cli.store import rows_in_words
from featstore.command_line import (
    EXIT_GATE,
    Choice,
    SectionedCommand,
    StorePlace,
    StoreType,
    count,
    json_option,
    print_json,
    store_option,
    usage_error,
)
from featstore.errors import listed
from featstore.options import options_from
from featstore.terminal import ProgressBar, TextTable, best, in_words, print_facts, say, warning

if TYPE_CHECKING:
    from bench.bridge import Bridge
    from bench.options import AgainConfig
    from bench.spaces import Passport
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
    type=Choice(["id", "position"]),
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
        from bench.report.page import write_bridge

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
    from featstore.interop import SUFFIXES, view_of

    path = Path(place)
    # The name of a set may have a dot, of a model or a version, and be that of a folder, too.
    if path.suffix in SUFFIXES or (store is None and path.is_dir()):
        return view_of(path, array=array)
    opened = featstore.open_store(the_store(store))
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


def show_vectors(
    place: StorePlace, *, as_json: bool, key: str | None = None, array: str | None = None,
    again: AgainConfig | None = None,
) -> None:  # fmt: skip
    """Show what a file of vectors, or a set, holds; with an encoder, whether its rows are its."""
    from bench.spaces import encoded_again, passport
    from featstore.interop import view_of
    from fitters.adapter import Adapter
    from fitters.errors import CorruptAlignmentError

    if key is None and array is None and str(place).endswith(".safetensors"):
        with suppress(CorruptAlignmentError, FileNotFoundError):  # of vectors it is no adapter
            _show_adapter(place, dict(Adapter.read(Path(place)).facts), as_json=as_json)
            return
    with ProgressBar(f"show {key or place}", doing="reading rows"):
        if key is None:
            view: Selection = view_of(Path(place), array=array, numbered=True)
        else:
            opened = featstore.open_store(place)
            info = set_named(opened, key)
            view = opened.view(str(info.key), revision=info.commit.revision_id)
        asked = again is not None and again.encoder is not None
        found = passport(view, encoded_again(view, again) if again and asked else None)
    if as_json:
        document = {"name": view.key, **asdict(found)}
        print_json(document | ({"sentence": found.again.sentence} if found.again else {}))
        return
    say(best(view.key))
    click.echo()
    own = [("encoded again", found.again.sentence)] if found.again else []
    others = [("others", named(found.again.others))] if found.again and found.again.others else []
    print_facts({"Rows": _rows(found), "Signs": _signs(found), "Encoder": [*own, *others]})


def _show_adapter(place: StorePlace, facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    kept = facts.pop("kept", [])  # of directions that `store derive` saved there is none
    told = [(name.replace("_", " "), in_words(one)) for name, one in facts.items() if one]
    print_facts({f"{place}, an adapter": told})
    rows = [[in_words(one) for one in row.values()] for row in kept]
    TextTable([name.upper() for name in (kept or [{}])[0]], rows).show()


def _rows(found: Passport) -> list[tuple[str, str]]:
    row, times = found.hub
    often = f"row {row:,} is among the ten nearest of {times:,} of {found.sample:,} rows"
    return [
        ("shape", f"{found.n:,} × {found.dim:,} {found.dtype}"),
        ("NaN or Inf", warning(named(found.broken)) if found.broken else "none"),
        *rows_in_words(found.norms, found.duplicates),
        ("effective rank", f"{found.rank:.1f} of {found.dim:,}"),
        ("hubs", f"{often}; skewness {found.hubness:.2f}"),
    ]


def _signs(found: Passport) -> list[tuple[str, str]]:
    said = {name: "all rows" if share else "no row" for name, share in found.footprints.items()}
    for name, rows in found.minority.items():
        share = found.footprints[name]
        have = "these have it" if share <= 0.5 else "these lack it"
        said[name] = warning(f"{100 * share:.1f} % of rows; {have}: {named(rows)}")
    apart = found.unusual
    few = "not looked for: too few rows" if apart is None else "none found"
    return [*said.items(), ("unusual rows", warning(named(apart)) if apart else few)]


def named(rows: Sequence[int]) -> str:
    """Return how many rows there are, and the first of them: ``3 rows: 0, 7, 9``."""
    return f"{count(len(rows), 'row')}: {listed(rows, shown=8)}"
