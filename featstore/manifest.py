"""Manifests: what exists. One item table a kind, one label set, and the facts of a dataset."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
import tomli_w

from featstore.address import Address, parse_address
from featstore.errors import LISTED, ManifestError, did_you_mean, listed, lookup, unknown_name
from featstore.identity import sha256_hex
from featstore.manifest_files import (
    FACTS_FILE,
    building,
    check_paths,
    item_hashes,
    publish,
    read_bytes,
    read_facts,
    require_hashes,
)
from featstore.store.parquet_guard import table_bytes, unpack
from featstore.terminal import Card, Shown

#: The fact that says where uris lead, if that is not the manifest's own folder.
DATA_ROOT = "data_root"

#: The name of the label set among the tables.
CLASSES = "classes"


@dataclass(frozen=True, repr=False)
class Manifest(Shown):
    """What exists in one dataset: items by kind, their label set, and facts.

    Made by `read_manifest` or `write_manifest`, so it is valid.

    Examples
    --------
    >>> birds = toy_manifest("birds", 4, captions=True)
    >>> birds.items("image")["split"].to_list()
    ['train', 'train', 'train', 'test']
    """

    name: str
    """Name of the dataset; one path component, e.g. ``stamps``."""

    root: Path | Address
    """Folder that uris are relative to: the manifest's own, or its ``data_root``, which may be an
    address of files elsewhere."""

    facts: Mapping[str, Any]
    """What dataset.toml says: name, revision, licence, home_page, counts, pitfalls …."""

    tables: Mapping[str, pl.DataFrame]
    """Item table by kind, with the columns of ITEM_SCHEMA first."""

    classes: pl.DataFrame | None
    """The label set, or None if no item has a class."""

    def items(self, kind: str) -> pl.DataFrame:
        """Return the item table of `kind`.

        Raises
        ------
        ManifestError
            If the manifest has no items of this kind.
        """
        return lookup(
            self.tables,
            kind,
            what="kind",
            where=f"in the manifest {self.name!r}",
            error=ManifestError,
        )

    def _card(self) -> Card:
        counts = ", ".join(f"{len(table):,} {kind}" for kind, table in self.tables.items())
        classes = None if self.classes is None else f"{len(self.classes):,}"
        licence = self.facts.get("licence")
        about = {"items": counts, "classes": classes, "licence": licence, "root": self.root}
        return Card(f"Manifest {self.name!r}", about)


#: What an item can be. All four are the same thing to a fitter: rows that have an embedding.
Kind = Literal["image", "caption", "class_name", "head_weight"]
KINDS: tuple[str, ...] = get_args(Kind)

#: The usual splits, in the order they are shown; a manifest may name others.
SPLITS = ("train", "val", "test")

#: Columns of an item table. All but item_id and kind may be null; extra columns are kept.
ITEM_SCHEMA: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "kind": pl.String(),
    "uri": pl.String(),
    "text": pl.String(),
    "parent_id": pl.String(),
    "class_id": pl.String(),
    "variant": pl.String(),
    "template_id": pl.String(),
    "split": pl.String(),
    "content_sha256": pl.String(),
}

#: Columns of a label set. synset, lemmas and definition may be null; extra columns are kept.
CLASS_SCHEMA: dict[str, pl.DataType] = {
    "class_id": pl.String(),
    "index": pl.Int64(),
    "synset": pl.String(),
    "lemmas": pl.String(),
    "definition": pl.String(),
    "name": pl.String(),
    "shared_name": pl.Boolean(),
}

_NULLABLE_CLASS_COLUMNS = ("synset", "lemmas", "definition")


def conform_items(table: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Return `table` with every column of ITEM_SCHEMA first and in order, extra ones behind.

    Missing columns become null, ``kind`` becomes `kind`; values are not looked at.

    Raises
    ------
    ManifestError
        If item_id is missing, or a column has another type.
    """
    filled = table if "kind" in table.columns else table.with_columns(kind=pl.lit(kind))
    return _conform(filled, ITEM_SCHEMA, f"{kind} items", required=("item_id",))


def conform_classes(table: pl.DataFrame) -> pl.DataFrame:
    """Return a label set with every column of CLASS_SCHEMA first and in order.

    Raises
    ------
    ManifestError
        If a column that may not be null is missing, or one has another type.
    """
    required = tuple(name for name in CLASS_SCHEMA if name not in _NULLABLE_CLASS_COLUMNS)
    return _conform(table, CLASS_SCHEMA, "classes", required=required)


def _conform(
    table: pl.DataFrame, schema: Mapping[str, pl.DataType], what: str, *, required: tuple[str, ...]
) -> pl.DataFrame:
    absent = [name for name in required if name not in table.columns]
    if absent:
        raise ManifestError(
            f"The table of {what} has no column {', '.join(map(repr, absent))}. It has: "
            f"{listed(table.columns, shown=LISTED)}."
        )
    wrong = [
        f"{name} ({table.schema[name]} instead of {dtype})"
        for name, dtype in schema.items()
        if name in table.columns and table.schema[name] not in (dtype, pl.Null())
    ]
    if wrong:
        raise ManifestError(
            f"The table of {what} has columns of the wrong type: {', '.join(wrong)}. Cast them."
        )
    known = [
        pl.col(name).cast(dtype) if name in table.columns else pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in schema.items()
    ]
    return table.select(*known, *(name for name in table.columns if name not in schema))


_CONTROL = r"[\x00-\x1f\x7f]"


def validate_items(tables: Mapping[str, pl.DataFrame], classes: pl.DataFrame | None = None) -> None:
    """Check item tables against each other and the label set. Files are not looked for.

    Parameters
    ----------
    tables : mapping
        Item table by kind.
    classes : DataFrame, optional
        The label set; needed if an item has a class_id.

    Raises
    ------
    ManifestError
        If a kind is unknown, a column is missing or has another type, an id is null, repeated
        or holds control characters, an item has both or neither of uri and text, a uri leaves
        the root, a parent is dangling or lies in another split, or a class_id is not in the
        label set.
    """
    unknown = [kind for kind in tables if kind not in KINDS]
    if unknown:
        raise ManifestError(unknown_name("kind", unknown[0], KINDS))
    whole = {kind: conform_items(table, kind) for kind, table in tables.items()}
    for kind, table in whole.items():
        _check_ids(table, "item_id", f"{kind} items")
    places = pl.concat([_NOTHING, *(table.select("item_id", "split") for table in whole.values())])
    ids = places["item_id"]
    repeated = ids.hash().n_unique() < len(ids)  # in a fifth of the memory that ids take
    _refuse(
        ids.filter(ids.is_duplicated()).unique().sort() if repeated else ids.clear(),
        "{n} item ids are repeated: {first}. Rows are joined by item_id, so each must be unique "
        "over all kinds.",
    )
    for kind, table in whole.items():
        _check_content(table, kind)
        _check_parents(table, kind, places)
        _check_class_ids(table, kind, classes)
        check_paths(table, f"{kind} items")


def validate_classes(classes: pl.DataFrame) -> None:
    """Check a label set.

    Raises
    ------
    ManifestError
        If a column is missing, null or of another type, a class_id is repeated, ``index`` is
        not 0, 1, 2 … in some order, or a name that several classes share is not marked so.
    """
    table = conform_classes(classes)
    if table.is_empty():
        raise ManifestError("The label set has no class. Give at least one, or none at all.")
    _check_ids(table, "class_id", "classes")
    repeated = table.filter(pl.col("class_id").is_duplicated())["class_id"].unique().sort()
    _refuse(repeated, "{n} class ids are repeated: {first}. Make them unique.")
    for column in ("index", "name", "shared_name"):
        lost = table.filter(pl.col(column).is_null())["class_id"]
        _refuse(lost, f"{{n}} classes have no {column}: {{first}}.")
    indices = table["index"].sort().to_list()
    if indices != list(range(table.height)):
        raise ManifestError(
            f"The indices of {table.height:,} classes must be 0 to {table.height - 1:,}, each "
            f"once; got {listed(indices)}. The index is the row of a classification head."
        )
    unmarked = table.filter(pl.col("name").is_duplicated() & ~pl.col("shared_name"))["name"]
    _refuse(
        unmarked.unique().sort(),
        "{n} names are shared by several classes but shared_name is false: {first}. Set "
        "shared_name to true for them.",
    )


def _check_ids(table: pl.DataFrame, column: str, what: str) -> None:
    ids = table[column]
    empty = (ids.is_null() | (ids.str.len_bytes() == 0)).arg_true()
    _refuse(empty, f"{{n}} {what} have no {column}: rows {{first}}. Give each one.")
    bad = ids.filter(ids.str.contains(_CONTROL))
    _refuse(bad, f"{{n}} {what} have a control character in their {column}: {{first}}.")


_URI, _TEXT, _CLASS = (pl.col(name).is_not_null() for name in ("uri", "text", "class_id"))

#: What items of a kind have, and in words: a file, a text, or a row of a head.
_CONTENT = {
    "image": (_URI & ~_TEXT, "a uri and no text"),
    "caption": (_TEXT & ~_URI, "a text and no uri"),
    "class_name": (_TEXT & ~_URI & _CLASS, "a text, a class_id and no uri"),
    "head_weight": (_CLASS & ~_URI & ~_TEXT, "a class_id, and neither a uri nor a text"),
}


def _check_content(table: pl.DataFrame, kind: str) -> None:
    """Check that each item has the kind of its table, and the content of its kind."""
    said = table["kind"]
    _refuse(
        said.filter(said.ne_missing(kind)),
        f"{{n}} items of the table of kind {kind!r} say another: {{first}}. Keep one table a kind. "
        f"Known kinds: {', '.join(KINDS)}.",
    )
    right, words = _CONTENT[kind]
    wrong = table.filter(~right)["item_id"]
    _refuse(wrong, f"{{n}} {kind} items have not what each needs, {words}: {{first}}.")
    blank = table.filter(pl.col("text").str.strip_chars().str.len_bytes() == 0)["item_id"]
    _refuse(blank, f"{{n}} {kind} items have an empty text: {{first}}. Leave them out.")


def _check_parents(table: pl.DataFrame, kind: str, places: pl.DataFrame) -> None:
    """Check that parents are among the items of `places`, in the same split."""
    children = table.filter(pl.col("parent_id").is_not_null())
    # Parents alone: a join takes 136 bytes of memory for each row.
    known = places.filter(pl.col("item_id").is_in(children["parent_id"].implode())).rename(
        {"item_id": "parent_id", "split": "of_parent"}
    )
    _refuse(
        children.join(known, on="parent_id", how="anti")["parent_id"],
        f"{{n}} {kind} items have a parent that does not exist: {{first}}. Add the parents, or "
        "drop these items.",
    )
    leaks = children.join(known, on="parent_id").filter(pl.col("split") != pl.col("of_parent"))
    _refuse(
        leaks["item_id"],
        f"{{n}} {kind} items lie in another split than their parent: {{first}}. That would leak "
        "from one split to another.",
    )


def _check_class_ids(table: pl.DataFrame, kind: str, classes: pl.DataFrame | None) -> None:
    known = [] if classes is None else classes["class_id"].to_list()
    used = table["class_id"].drop_nulls().unique(maintain_order=True)
    strange = used.filter(~used.is_in(known))
    near = did_you_mean(strange[0], known) if len(strange) else ""
    _refuse(
        strange,
        f"{kind} items have {{n}} class_ids that are not in the label set of {len(known):,} "
        "classes (classes.parquet): {first}.{near}",
        near=near,
    )


_NOTHING = pl.DataFrame(schema={"item_id": pl.String, "split": pl.String})


def _refuse(found: pl.Series, text: str, **more: str) -> None:
    """Raise ManifestError if there is any: ``{n}`` is how many there are, ``{first}`` a few."""
    if len(found):
        first = listed(found.unique(maintain_order=True))
        raise ManifestError(text.format(n=f"{len(found):,}", first=first, **more))


def toml_text(facts: Mapping[str, Any]) -> str:
    """Return `facts` as TOML: plain values first, then one table a nested mapping.

    The same facts in the same order give the same text, and `tomllib` reads it back as they were.

    Raises
    ------
    ManifestError
        If a value is nothing that TOML has (None, bytes), or a text not Unicode.
    """
    try:
        text = tomli_w.dumps(facts)
        text.encode()  # not half of a surrogate pair
    except (TypeError, ValueError) as err:
        raise ManifestError(
            f"dataset.toml cannot hold the facts {[*facts]}: {err}. Give strings, numbers, "
            "booleans, dates, lists of those and mappings."
        ) from err
    return text


#: Facts that are not the caller's to give.
_COMPUTED = ("counts", "tables", DATA_ROOT)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def write_manifest(
    root: Path | str,
    *,
    facts: Mapping[str, Any],
    tables: Mapping[str, pl.DataFrame],
    classes: pl.DataFrame | None = None,
    data_root: Path | Address | None = None,
    made: Path | None = None,
) -> Manifest:
    """Validate tables, complete their content hashes, and write them below `root`.

    The files that uris name must lie there already. Each table becomes ``<kind>.parquet`` (same
    rows, same bytes), the label set ``classes.parquet``; ``dataset.toml`` takes its place last and
    holds their sha256, so an interrupted write is seen by the next reader, and completed by the
    next writer. Nothing is written unless everything is valid. Tables of an earlier manifest that
    are not among these stay, and nobody reads them.

    Parameters
    ----------
    root : Path
        Folder of the manifest; made if need be.
    facts : mapping
        At least ``name``: lower-case letters, digits, ``_`` and ``-``. ``counts`` and
        ``tables`` are computed.
    tables : mapping
        Item table by kind; missing columns become null, content_sha256 is computed anew.
    classes : DataFrame, optional
        The label set.
    data_root : Path or Address, optional
        Folder or address that uris are relative to, if it is not `root`; recorded as a fact.
        Nothing is written there, and nothing is asked of an address.
    made : Path, optional
        The folder of `featstore.manifest_files.building` in `root` where the files that uris name
        were made, if they are not below `root` yet; they take their places with the tables.

    Returns
    -------
    Manifest
        What a reader will see.

    Raises
    ------
    ManifestError
        If a rule is broken (see `validate_items`, `validate_classes`), a file is not there or
        lies outside, a fact cannot be written, or the file system refuses.

    Examples
    --------
    >>> captions = item_table(["a", "b"], "caption", text=["a wren", "two owls"])
    >>> write_manifest("birds", facts={"name": "birds"}, tables={"caption": captions}).name
    'birds'
    """
    folder = Path(root)
    name = check_name(facts.get("name"))
    labels = None if classes is None else conform_classes(classes)
    if labels is not None:
        validate_classes(labels)
    files = (made or folder) if data_root is None else data_root.resolve()
    validate_items(tables, labels)
    complete = {}
    for kind in (kind for kind in KINDS if kind in tables):
        table = conform_items(tables[kind], kind)
        require_hashes(table, kind, every=isinstance(files, Address))
        complete[kind] = table.with_columns(item_hashes(files, table))
    named = {**complete, **({} if labels is None else {CLASSES: labels})}
    data = {
        f"{stem}.parquet": table_bytes(table, row_group_size=2**17) for stem, table in named.items()
    }
    whole = {
        **{key: value for key, value in facts.items() if key not in _COMPUTED},
        **({} if data_root is None else {DATA_ROOT: str(files)}),
        "counts": {kind: split_counts(table) for kind, table in complete.items()},
        "tables": {
            stem: {"rows": table.height, "sha256": sha256_hex(data[f"{stem}.parquet"])}
            for stem, table in named.items()
        },
    }
    text = toml_text(whole)
    data[FACTS_FILE] = text.encode("utf-8")
    with building(folder) if made is None else nullcontext():
        publish(folder, data)
    lie = folder if data_root is None else files
    return Manifest(name, lie, tomllib.loads(text), complete, labels)


def check_name(name: object) -> str:
    """Return a dataset's name, which becomes a folder of the store.

    Raises
    ------
    ManifestError
        If it is not 1 to 64 lower-case letters, digits, ``_`` or ``-``.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ManifestError(
            f"The dataset's name is {name!r}. It must be 1 to 64 lower-case letters, digits, _ or "
            "-, beginning with a letter or digit, because it becomes a folder of the store."
        )
    return name


def split_counts(table: pl.DataFrame) -> dict[str, int]:
    """Return the number of items by split, then ``total``; items without split are ``unsplit``."""
    counts = dict(table["split"].fill_null("unsplit").value_counts().iter_rows())
    order = [split for split in SPLITS if split in counts]
    order += sorted(split for split in counts if split not in SPLITS)
    return {**{split: counts[split] for split in order}, "total": table.height}


#: Larger tables are refused before they are read.
MAX_TABLE_BYTES = 8 * 2**30


def read_manifest(root: Path | str) -> Manifest:
    """Read and validate the manifest in the folder `root`.

    ``dataset.toml`` needs a ``name``. If it lists ``tables`` (as `write_manifest` does), those
    are read and their sha256 must agree; else (a manifest made by hand) every ``.parquet`` beside
    it is. Uris are relative to the folder, or to the ``data_root`` that the facts name; items that
    lie there must have a content hash, and nothing but bytes of that hash is ever read for them.
    Files of items are looked for when they are read.

    Parameters
    ----------
    root : Path
        Folder with dataset.toml, ``<kind>.parquet`` and, if items have classes, classes.parquet.

    See Also
    --------
    featstore.sources.reader.check_bytes : reads every file, and compares its content hash.

    Raises
    ------
    ManifestError
        If the folder is no manifest, a file cannot be read or differs from the facts, or a
        rule is broken (see `validate_items`, `validate_classes`).

    Examples
    --------
    >>> made = toy_manifest("birds", 4)
    >>> read_manifest("birds").items("image").height
    4
    """
    folder = Path(root)
    facts = read_facts(folder)
    name = check_name(facts.get("name"))
    found = {stem: _read_table(folder, stem, facts) for stem in _stems(folder, facts)}
    classes = found.pop(CLASSES, None)
    if classes is not None:
        classes = conform_classes(classes)
        validate_classes(classes)
    files = _data_root(folder, facts)
    validate_items(found, classes)
    tables = {kind: conform_items(found[kind], kind) for kind in KINDS if kind in found}
    for kind, table in tables.items():
        require_hashes(table, kind, every=files != folder)
    return Manifest(name, files, facts, tables, classes)


def _data_root(folder: Path, facts: Mapping[str, Any]) -> Path | Address:
    """Return the folder or address that uris are relative to."""
    if DATA_ROOT not in facts:
        return folder
    given = facts[DATA_ROOT]
    if not isinstance(given, str) or not given or "\0" in given:
        raise ManifestError(
            f"{DATA_ROOT} of {folder / FACTS_FILE} is {given!r}; it must be the path of a folder."
        )
    given = parse_address(given)
    if isinstance(given, Address):
        return given
    files = (folder / given).resolve()
    if not files.is_dir():
        raise ManifestError(
            f"The files of {folder} are said to lie in {files}, which is no folder. Correct "
            f"{DATA_ROOT} in {FACTS_FILE}, or make the manifest again."
        )
    return files


def _stems(folder: Path, facts: Mapping[str, Any]) -> Iterable[str]:
    """Return the names of the tables: those that the facts list, else those that lie there."""
    if "tables" not in facts:
        return sorted(path.stem for path in folder.glob("*.parquet"))
    listed = facts["tables"]
    known = (*KINDS, CLASSES)
    right = isinstance(listed, dict) and all(
        stem in known and isinstance(entry, dict) and isinstance(entry.get("sha256"), str)
        for stem, entry in listed.items()
    )
    if not right:
        raise ManifestError(
            f"The tables of {folder / FACTS_FILE} are not lists of rows and sha256 by kind. Known "
            f"names: {', '.join(known)}. Leave the section out in a manifest made by hand."
        )
    return list(listed)


def _read_table(folder: Path, stem: str, facts: Mapping[str, Any]) -> pl.DataFrame:
    file = f"{stem}.parquet"
    stated = facts.get("tables", {}).get(stem, {})
    rows = stated["rows"] if type(stated.get("rows")) is int else 0
    data = read_bytes(folder, file, MAX_TABLE_BYTES)
    if stated.get("sha256") not in (None, sha256_hex(data)):
        raise ManifestError(
            f"{folder / file} differs from the sha256 in {FACTS_FILE}: it was changed, or writing "
            "was interrupted. Build the dataset again."
        )
    try:
        return unpack(data, rows=rows)
    except ValueError as err:
        raise ManifestError(
            f"{folder / file} is not a readable Parquet file: {err}. Build the dataset again."
        ) from err
