"""What `headstock show` prints of a file of vectors, and of a set whose items it encodes again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import open_at, set_named
from featstore.cli.store import rows_in_words
from featstore.command_line import StorePlace, count, print_json
from featstore.errors import listed
from featstore.terminal import ProgressBar, TextTable, best, in_words, print_facts, say, warning

if TYPE_CHECKING:
    from bench.options import AgainConfig
    from bench.passport import Passport
    from featstore.store.view import Selection


def show_vectors(
    place: StorePlace, *, as_json: bool, key: str | None = None, array: str | None = None,
    again: AgainConfig | None = None,
) -> None:  # fmt: skip
    """Show what a file of vectors, or a set, holds; with an encoder, whether its rows are its."""
    from bench.passport import encoded_again, passport
    from featstore.interop.reading import view_of
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
            opened = open_at(place)
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
        *rows_in_words(asdict(found.norms), asdict(found.duplicates)),
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
