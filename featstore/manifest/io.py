"""Read and write manifests."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

from featstore.address import Address, parse_address
from featstore.errors import ManifestError
from featstore.identity import sha256_hex
from featstore.manifest.folder import building, publish, read_bytes, read_facts
from featstore.manifest.manifest import (
    CLASSES,
    DATA_ROOT,
    FACTS_FILE,
    KINDS,
    SPLITS,
    Manifest,
    conform_classes,
    conform_items,
    validate_classes,
    validate_items,
)
from featstore.manifest.paths import (
    item_hashes,
    require_hashes,
)
from featstore.store.parquet_guard import table_bytes, unpack


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
    replaced: Iterable[str] = (),
) -> Manifest:
    """Validate tables, complete their content hashes, and write them below `root`.

    The files that uris name must lie there already. Each table becomes ``<kind>.parquet`` (same
    rows, same bytes), the label set ``classes.parquet``; ``dataset.toml`` takes its place last and
    holds their sha256, so an interrupted write is seen by the next reader, and completed by the
    next writer. Nothing is written unless everything is valid. Tables of an earlier manifest that
    are not among these are removed.

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
        The folder of `featstore.manifest.folder.building` in `root` where the files that uris name
        were made, if they are not below `root` yet; they take their places with the tables.
    replaced : iterable of str
        Files below `root` that nothing needs once the new manifest is there.

    Returns
    -------
    Manifest
        What a reader will see.

    Raises
    ------
    ManifestError
        If a rule is broken (see `validate_items`, `validate_classes`), a fact cannot be
        written, or the file system refuses.

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
    validate_items(tables, labels, root=files)
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
    gone = [f"{stem}.parquet" for stem in (*KINDS, CLASSES) if stem not in named]
    with building(folder) if made is None else nullcontext():
        publish(folder, data, replaced=[*replaced, *gone])
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


def read_manifest(root: Path | str, *, unchecked: bool = False) -> Manifest:
    """Read and validate the manifest in the folder `root`.

    ``dataset.toml`` needs a ``name``. If it lists ``tables`` (as `write_manifest` does), those
    are read and their sha256 must agree; else (a manifest made by hand) every ``.parquet`` beside
    it is. Uris are relative to the folder, or to the ``data_root`` that the facts name; items that
    lie there must have a content hash, and nothing but bytes of that hash is ever read for them.

    Parameters
    ----------
    root : Path
        Folder with dataset.toml, ``<kind>.parquet`` and, if items have classes, classes.parquet.
    unchecked : bool
        Do not look for the files that uris name. Whoever reads them calls
        `Manifest.check_files` before.

    See Also
    --------
    featstore.sources.check_bytes : also reads every file, and compares its content hash.

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
    validate_items(found, classes, root=None if unchecked else files)
    tables = {kind: conform_items(found[kind], kind) for kind in KINDS if kind in found}
    for kind, table in tables.items():
        require_hashes(table, kind, every=files != folder)
    again = partial(_read_again, folder.absolute(), facts)
    return Manifest(name, files, facts, tables, classes, unchecked, again)


def _read_again(folder: Path, facts: Mapping[str, Any]) -> Manifest:
    manifest = read_manifest(folder, unchecked=True)
    if manifest.facts != facts:
        raise ManifestError(f"{folder} was changed while a job used it. Start the job again.")
    return manifest


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
    try:
        # Held by nobody here: the table is moved together once its file is let go.
        return unpack(_verified(folder, file, stated.get("sha256")), rows=rows)
    except ManifestError:
        raise
    except ValueError as err:
        raise ManifestError(
            f"{folder / file} is not a readable Parquet file: {err}. Build the dataset again."
        ) from err


def _verified(folder: Path, file: str, sha256: str | None) -> bytes:
    """Return the bytes of a table's file, which must have this hash if one is stated."""
    data = read_bytes(folder, file, MAX_TABLE_BYTES)
    if sha256 is not None and sha256_hex(data) != sha256:
        raise ManifestError(
            f"{folder / file} differs from the sha256 in {FACTS_FILE}: it was changed, or writing "
            "was interrupted. Build the dataset again."
        )
    return data
