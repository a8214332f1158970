"""Read a manifest: facts, tables and label set, all of them checked."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from featstore.errors import ManifestError
from featstore.keys import sha256_hex
from featstore.manifest.hashes import check_hashes, require_hashes
from featstore.manifest.manifest import CLASSES, DATA_ROOT, FACTS_FILE, Manifest
from featstore.manifest.paths import resolve_inside
from featstore.manifest.schema import KINDS, conform_classes, conform_items
from featstore.manifest.validate import validate_classes, validate_items
from featstore.manifest.write import check_name

#: Larger files of facts or tables are refused before they are read.
MAX_FACTS_BYTES = 4 * 2**20
MAX_TABLE_BYTES = 8 * 2**30


def read_manifest(root: Path | str, *, hashes: bool = False) -> Manifest:
    """Read and validate the manifest in the folder `root`.

    ``dataset.toml`` needs a ``name``. If it lists ``tables`` (as `write_manifest` does), those
    are read and their sha256 must agree; else (a manifest made by hand) every ``.parquet`` beside
    it is. Uris are relative to the folder, or to the ``data_root`` that the facts name; items that
    lie there must have a content hash, and nothing but bytes of that hash is ever read for them.

    Parameters
    ----------
    root : Path
        Folder with dataset.toml, ``<kind>.parquet`` and, if items have classes, classes.parquet.
    hashes : bool
        Also read every file that a uri names and compare its sha256 with content_sha256.

    Raises
    ------
    ManifestError
        If the folder is no manifest, a file cannot be read or differs from the facts, or a
        rule is broken (see `validate_items`, `validate_classes`).
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
    validate_items(found, classes, root=files)
    tables = {kind: conform_items(found[kind], kind) for kind in KINDS if kind in found}
    for kind, table in tables.items():
        require_hashes(table, kind, every=files != folder)
        if hashes:
            check_hashes(files, table, kind)
    return Manifest(name, files, facts, tables, classes)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what dataset.toml in `folder` says, without reading any table.

    Raises
    ------
    ManifestError
        If the folder or the file is missing, or the file is too large or not TOML.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        msg = f"{folder} {what}. Build a dataset with `featstore manifests build`."
        raise ManifestError(msg)
    if not (folder / FACTS_FILE).is_file():
        msg = (
            f"{folder} is not a manifest: it has no {FACTS_FILE}. If building it was interrupted, "
            "run the same `featstore manifests build` again."
        )
        raise ManifestError(msg)
    data = _read_bytes(folder, FACTS_FILE, MAX_FACTS_BYTES)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        msg = f"{folder / FACTS_FILE} is not TOML: {err}. Correct it, or build the dataset again."
        raise ManifestError(msg) from err


def _data_root(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Return the folder that uris are relative to."""
    if DATA_ROOT not in facts:
        return folder
    given = facts[DATA_ROOT]
    if not isinstance(given, str) or not given or "\0" in given:
        msg = f"{DATA_ROOT} of {folder / FACTS_FILE} is {given!r}; it must be the path of a folder."
        raise ManifestError(msg)
    files = (folder / given).resolve()
    if not files.is_dir():
        msg = (
            f"The files of {folder} are said to lie in {files}, which is no folder. Correct "
            f"{DATA_ROOT} in {FACTS_FILE}, or make the manifest again."
        )
        raise ManifestError(msg)
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
        msg = (
            f"The tables of {folder / FACTS_FILE} are not lists of rows and sha256 by kind. Known "
            f"names: {', '.join(known)}. Leave the section out in a manifest made by hand."
        )
        raise ManifestError(msg)
    return list(listed)


def _read_table(folder: Path, stem: str, facts: Mapping[str, Any]) -> pl.DataFrame:
    file = f"{stem}.parquet"
    data = _read_bytes(folder, file, MAX_TABLE_BYTES)
    if "tables" in facts and sha256_hex(data) != facts["tables"][stem]["sha256"]:
        msg = (
            f"{folder / file} differs from the sha256 in {FACTS_FILE}: it was changed, or writing "
            "was interrupted. Build the dataset again."
        )
        raise ManifestError(msg)
    try:
        return pl.read_parquet(io.BytesIO(data), glob=False, hive_partitioning=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as err:
        why = str(err).splitlines()[0] if str(err) else type(err).__name__
        msg = f"{folder / file} is not a readable Parquet file: {why}. Build the dataset again."
        raise ManifestError(msg) from err


def _read_bytes(folder: Path, file: str, limit: int) -> bytes:
    path = resolve_inside(folder, file)
    try:
        size = path.stat().st_size
        if size > limit:
            msg = f"{path} has {size:,} bytes; more than {limit:,} are not read."
            raise ManifestError(msg)
        return path.read_bytes()
    except OSError as err:
        msg = f"Cannot read {path}: {err.strerror or err}."
        raise ManifestError(msg) from err
