"""Write a manifest: validate everything, then publish file by file, the facts last."""

from __future__ import annotations

import io
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from featstore.durable import write_durably
from featstore.errors import ManifestError
from featstore.keys import sha256_hex
from featstore.manifest.hashes import item_hashes, require_hashes
from featstore.manifest.manifest import CLASSES, DATA_ROOT, FACTS_FILE, Manifest
from featstore.manifest.schema import KINDS, SPLITS, conform_classes, conform_items
from featstore.manifest.toml_text import toml_text
from featstore.manifest.validate import validate_classes, validate_items

#: Facts that are not the caller's to give.
_COMPUTED = ("counts", "tables", DATA_ROOT)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def write_manifest(
    root: Path | str,
    *,
    facts: Mapping[str, Any],
    tables: Mapping[str, pl.DataFrame],
    classes: pl.DataFrame | None = None,
    data_root: Path | None = None,
) -> Manifest:
    """Validate tables, complete their content hashes, and write them below `root`.

    The files that uris name must lie there already. Each table becomes ``<kind>.parquet`` (same
    rows, same bytes), the label set ``classes.parquet``; ``dataset.toml`` is written last and
    holds their sha256, so an interrupted write is seen by the next reader. Nothing is written
    unless everything is valid. Tables of an earlier manifest that are not among these are removed.

    Parameters
    ----------
    root : Path
        Folder of the manifest; made if need be.
    facts : mapping
        At least ``name``: lower-case letters, digits, ``_`` and ``-``. ``counts`` and ``tables``
        are computed.
    tables : mapping
        Item table by kind; missing columns become null, content_sha256 is computed anew.
    classes : DataFrame, optional
        The label set.
    data_root : Path, optional
        Folder that uris are relative to, if it is not `root`; recorded as a fact. Nothing is
        written there.

    Returns
    -------
    Manifest
        What a reader will see.

    Raises
    ------
    ManifestError
        If a rule is broken (see `validate_items`, `validate_classes`), a fact cannot be
        written, or the file system refuses.
    """
    folder = Path(root)
    name = check_name(facts.get("name"))
    labels = None if classes is None else conform_classes(classes)
    if labels is not None:
        validate_classes(labels)
    files = folder if data_root is None else data_root.resolve()
    validate_items(tables, labels, root=files)
    complete = {}
    for kind in (kind for kind in KINDS if kind in tables):
        table = conform_items(tables[kind], kind)
        require_hashes(table, kind, every=False)
        complete[kind] = table.with_columns(item_hashes(files, table))
    named = {**complete, **({} if labels is None else {CLASSES: labels})}
    data = {f"{stem}.parquet": parquet_bytes(table) for stem, table in named.items()}
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
    for file, content in data.items():
        _write_file(folder / file, content)
    _write_file(folder / FACTS_FILE, text.encode("utf-8"))
    for stem in {*KINDS, CLASSES} - set(named):
        (folder / f"{stem}.parquet").unlink(missing_ok=True)
    return Manifest(name, files, tomllib.loads(text), complete, labels)


def check_name(name: object) -> str:
    """Return a dataset's name, which becomes a folder of the store.

    Raises
    ------
    ManifestError
        If it is not 1 to 64 lower-case letters, digits, ``_`` or ``-``.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        msg = (
            f"The dataset's name is {name!r}. It must be 1 to 64 lower-case letters, digits, _ or "
            "-, beginning with a letter or digit, because it becomes a folder of the store."
        )
        raise ManifestError(msg)
    return name


def split_counts(table: pl.DataFrame) -> dict[str, int]:
    """Return the number of items by split, then ``total``; items without split are ``unsplit``."""
    counts = dict(table["split"].fill_null("unsplit").value_counts().iter_rows())
    order = [split for split in SPLITS if split in counts]
    order += sorted(split for split in counts if split not in SPLITS)
    return {**{split: counts[split] for split in order}, "total": table.height}


def parquet_bytes(table: pl.DataFrame) -> bytes:
    """Return `table` as Parquet: the same rows give the same bytes."""
    buffer = io.BytesIO()
    table.rechunk().write_parquet(
        buffer, compression="zstd", compression_level=3, statistics=False, row_group_size=2**17
    )
    return buffer.getvalue()


def _write_file(path: Path, data: bytes) -> None:
    """Write a file so that its name appears with its whole content, or not at all."""
    try:
        write_durably(path, [data])
    except OSError as err:
        msg = f"Cannot write {path}: {err.strerror or err}. Free space or choose another folder."
        raise ManifestError(msg) from err
