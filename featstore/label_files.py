"""A user's own list of classes as a label set: one name a line, a table, or JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl

from featstore.errors import ManifestError
from featstore.manifest.schema import conform_classes
from featstore.manifest.validate import validate_classes

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
        msg = f"Cannot read the label file '{file.name}': {reason[:200]}. Give {_FORMS}."
        raise ManifestError(msg) from err
    table = rows.sort("index").with_columns(
        name=pl.col("name").str.strip_chars(), index=pl.col("index").cast(pl.Int64)
    )
    blank = table.filter(pl.col("name").fill_null("") == "")["index"]
    if table.is_empty() or len(blank):
        what = f"no name for class {blank[0]:,}" if len(blank) else "no class"
        msg = f"The label file '{file.name}' holds {what}. Give {_FORMS}."
        raise ManifestError(msg)
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
            msg = f"it has no column 'name', only {', '.join(table.columns)}"
            raise ValueError(msg)
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
        msg = f"a {suffix or 'file without suffix'} is no known form"
        raise ValueError(msg)
    absent = [pl.lit(None, dtype=pl.String).alias(k) for k in _TAKEN if k not in table.columns]
    return table.with_columns(absent)


def _pairs(document: Any) -> list[tuple[int, str]]:
    pairs = list(enumerate(document)) if isinstance(document, list) else None
    if isinstance(document, dict):
        pairs = [(int(key), value) for key, value in document.items()]
    if pairs is None or not all(isinstance(name, str) for _, name in pairs):
        msg = "it holds neither a list of names nor an object index -> name"
        raise ValueError(msg)
    return pairs


def _frame(pairs: list[tuple[int, str]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"index": pl.Int64, "name": pl.String}, orient="row")
