"""Label sets: class names of a head or of a file, and one text row a class."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import LISTED, EmptySelectionError, ManifestError, listed
from featstore.identity import canonical_json, sha256_hex
from featstore.manifest import conform_classes, conform_items, validate_classes
from featstore.manifest_files import text_sha256
from featstore.store.rows import MemoryRows
from featstore.store.tables import ItemTable
from featstore.store.view import Selection, View


def head_items(classes: pl.DataFrame) -> pl.DataFrame:
    """Return the head_weight items of a label set: one a class, in the order of its index.

    Row i of the table is row i of the head's weight matrix. ``item_id`` is ``<class_id>#head``;
    content_sha256 is that of the class id, since the weights belong to the encoder, not to the
    item.

    Parameters
    ----------
    classes : DataFrame
        A label set (CLASS_SCHEMA), rows in any order.

    Raises
    ------
    ManifestError
        If it is no valid label set, e.g. indices are not 0, 1, 2 ….
    """
    labels = conform_classes(classes)
    validate_classes(labels)
    ids = labels.sort("index")["class_id"]
    table = pl.DataFrame(
        {
            "item_id": [f"{class_id}#head" for class_id in ids],
            "class_id": ids,
            "content_sha256": [text_sha256(class_id) for class_id in ids],
        }
    )
    return conform_items(table, "head_weight")


_FORMS = (
    "a .txt with one name a line; a .csv or .tsv with a column 'name' and, if need be, 'index', "
    "'synset', 'lemmas', 'definition'; or a .json with a list of names or {index: name}"
)
_TAKEN = ("name", "synset", "lemmas", "definition")


def read_label_file(path: str | Path, *, name: str | None = None) -> tuple[str, pl.DataFrame]:
    """Read the classes of a head from a file; row i of the head is the i-th of them.

    Parameters
    ----------
    path : path
        A .txt with one name a line; a .csv or .tsv with a column ``name`` and, optionally,
        ``index`` (0, 1, 2 … in any order; else the order of the lines), ``synset``, ``lemmas``
        and ``definition``; or a .json with a list of names, or an object index -> name as in
        ``id2label``.
    name : str, optional
        Of the label set; by default made of the file's name.

    Returns
    -------
    name : str
    classes : DataFrame
        The label set (CLASS_SCHEMA), with ``name_group`` and ``shared_name`` as for built ones;
        ``class_id`` is ``<name>/<synset>`` where there is one, else ``<name>/<index>``.

    Raises
    ------
    ManifestError
        If the file cannot be read or is no such list.
    """
    file = Path(path)
    set_name = name or re.sub(r"[^a-z0-9_-]+", "-", file.stem.lower()).strip("-_") or "labels"
    try:
        rows = _rows(file)
    except (OSError, UnicodeDecodeError, ValueError, pl.exceptions.PolarsError) as err:
        reason = " ".join(str(err).split()) or type(err).__name__
        raise ManifestError(
            f"Cannot read the label file '{file.name}': {reason[:200]}. Give {_FORMS}."
        ) from err
    table = rows.sort("index").with_columns(
        name=pl.col("name").str.strip_chars(), index=pl.col("index").cast(pl.Int64)
    )
    blank = table.filter(pl.col("name").fill_null("") == "")["index"]
    if table.is_empty() or len(blank):
        what = f"no name for class {blank[0]:,}" if len(blank) else "no class"
        raise ManifestError(f"The label file '{file.name}' holds {what}. Give {_FORMS}.")
    ids = pl.coalesce(pl.col("synset"), pl.col("index").cast(pl.String))
    table = table.with_columns(
        class_id=pl.lit(f"{set_name}/") + ids,
        name_group=pl.col("name").str.to_lowercase(),
    ).with_columns(shared_name=pl.col("name_group").is_duplicated())
    classes = conform_classes(table)
    validate_classes(classes)
    return set_name, classes


def _rows(file: Path) -> pl.DataFrame:
    """Return the columns index, name, synset, lemmas and definition of a label file."""
    suffix = file.suffix.lower()
    if suffix in (".csv", ".tsv"):
        table = pl.read_csv(file, separator="\t" if suffix == ".tsv" else ",", infer_schema=False)
        if "name" not in table.columns:
            raise ValueError(f"it has no column 'name', only {', '.join(table.columns)}")
        order = (
            pl.col("index").cast(pl.Int64) if "index" in table.columns else pl.int_range(pl.len())
        )
        columns = [pl.col(key) for key in _TAKEN if key in table.columns]
        table = table.select(order.alias("index"), *columns)
    elif suffix == ".json":
        table = _frame(_pairs(json.loads(file.read_text(encoding="utf-8"))))
    elif suffix == ".txt":
        lines = file.read_text(encoding="utf-8").splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        table = _frame(list(enumerate(lines)))
    else:
        raise ValueError(f"a {suffix or 'file without suffix'} is no known form")
    absent = [pl.lit(None, dtype=pl.String).alias(k) for k in _TAKEN if k not in table.columns]
    return table.with_columns(absent)


def _pairs(document: Any) -> list[tuple[int, str]]:
    pairs = list(enumerate(document)) if isinstance(document, list) else None
    if isinstance(document, dict):
        pairs = [(int(key), value) for key, value in document.items()]
    if pairs is None or not all(isinstance(name, str) for _, name in pairs):
        raise ValueError("it holds neither a list of names nor an object index -> name")
    return pairs


def _frame(pairs: list[tuple[int, str]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"index": pl.Int64, "name": pl.String}, orient="row")


#: The variant of class names that is a sentence of its own, and the template that adds nothing.
DEFINITION, BARE = "definition", "none"


def class_texts(
    view: View,
    *,
    variants: Sequence[str] | str | None = None,
    templates: Sequence[str] | str | None = None,
) -> View:
    """Reduce class × variant × template prompts to one row per class.

    Each prompt is L2-normalised, the prompts of a class are averaged, and the mean is
    L2-normalised (encode → L2 → mean → L2, as open_clip does), so that 80 templates give a
    class no more mass than one. Of several variants each has such a mean, and the means are
    averaged likewise, so that a name under two templates has no more say than its definition.

    A definition stands bare: of the variant ``definition`` only the template ``none`` is taken
    beside other variants, whatever the templates. "A photo of a <definition>" is no sentence.

    Parameters
    ----------
    view : Selection
        Of kind class_name.
    variants, templates : sequence of str, or str, optional
        Which to use, or the only one; all by default. A class lacking one of the variants keeps
        the others.

    Returns
    -------
    Selection
        One row per class in order of first appearance; its items are the class's first
        prompt, with ``item_id`` = class_id.

    Raises
    ------
    EmptySelectionError
        If a variant or template does not occur, or a class has none of those asked for.
    """
    chosen = view
    # A text is a sequence of letters, too.
    variants = [variants] if isinstance(variants, str) else variants
    templates = [templates] if isinstance(templates, str) else templates
    if variants is not None:
        _require(view, "variant", variants)
        chosen = chosen.where(variant=list(variants))
    if templates is not None:
        _require(view, "template_id", templates)
        kept = chosen.items["template_id"].is_in(list(templates))
        defined = chosen.items["variant"] == DEFINITION
        bare = defined & (chosen.items["template_id"] == BARE)
        if bare.any() and not defined.all():
            kept = (kept & ~defined) | bare
        chosen = chosen.take(np.flatnonzero(kept.fill_null(value=False).to_numpy()))
    classes = chosen.items["class_id"]
    if classes.null_count():
        raise EmptySelectionError(
            f"{classes.null_count():,} items of {view.key} have no class_id; they are not class "
            "names."
        )
    order = classes.unique(maintain_order=True)
    lost = set(view.items["class_id"].drop_nulls()) - set(order)
    if lost:
        raise EmptySelectionError(
            f"{len(lost):,} classes of {view.key} have none of the variants and templates asked "
            f"for (first: {min(lost)!r})."
        )
    position = {name: index for index, name in enumerate(order.to_list())}
    index = np.array([position[name] for name in classes.to_list()])
    data = chosen.normalized().numpy(np.float64)
    sums = np.zeros((len(order), view.dim))
    of_variant = chosen.items["variant"].fill_null("")
    alike = of_variant.n_unique() == 1
    for variant in of_variant.unique(maintain_order=True):
        rows = np.flatnonzero((of_variant == variant).to_numpy())
        part = sums if alike else np.zeros_like(sums)
        np.add.at(part, index[rows], data[rows])
        if not alike:
            lengths = np.linalg.norm(part, axis=1, keepdims=True)
            sums += np.divide(part, lengths, out=part, where=lengths > 0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    if not norms.all():
        raise EmptySelectionError(
            f"The prompts of class {order[int(np.flatnonzero(norms[:, 0] == 0)[0])]!r} cancel out."
        )
    first = np.unique(index, return_index=True)[1]
    items = chosen.items[first].with_columns(pl.col("class_id").alias("item_id"))
    by = "l2-mean-l2" if alike else "l2-mean-l2 by variant"
    facts = {"class_texts": chosen.fingerprint, "reduction": by}
    return replace(
        chosen,
        source=MemoryRows((sums / norms).astype(np.float32)),
        rows=np.arange(len(order)),
        table=ItemTable(None, items),
        revision_id=sha256_hex(canonical_json(facts)),
        unit=False,
        origin=None,
    )


def _require(view: Selection, column: str, wanted: Sequence[str]) -> None:
    """Raise if one of the wanted values does not occur: it would silently change nothing."""
    known = set(view.items[column].drop_nulls().to_list())
    absent = [value for value in wanted if value not in known]
    if absent or not wanted:
        raise EmptySelectionError(
            f"{view.key} has no {column} {listed(absent) if wanted else '(none asked for)'}. It "
            f"has: {listed(sorted(known), shown=LISTED)}."
        )
